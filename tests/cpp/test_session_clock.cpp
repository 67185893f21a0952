// Clock modes, own audio that comes late, early, in part or not at all, and interruption.
#include <algorithm>
#include <memory>
#include <vector>

#include "check.h"
#include "conversation.h"
#include "fake_engine.h"
#include "session/session.h"

namespace {

using namespace unils;

constexpr int D = FakeEngine::kChannels;
constexpr int64_t kHop = 640;

Samples slice(const Samples& samples, int64_t first, int64_t count) {
  return Samples(samples.begin() + first, samples.begin() + first + count);
}
Samples operator+(Samples a, const Samples& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
Samples silence(int64_t count) { return Samples(static_cast<size_t>(count), 0.0f); }

// What a session would show whose own audio had lain on the time line like this from the start. A FakeEngine's frame is
// a function of the rows it sees, so frames [first, end) of both must be equal bit by bit.
void check_as_if(const Frames& frames, int64_t first, int64_t end, Samples self, Samples other, int look_ahead_self,
                 int look_ahead_other = 0) {
  const auto samples = static_cast<size_t>((end + 9) * kHop);
  self.resize(samples);
  other.resize(samples);
  auto session = fake_session(fake_options(UNILS_CLOCK_BOTH, look_ahead_self, look_ahead_other));
  const Frames expected = converse(*session, D, self, 16000, other, 16000);
  CHECK(frames.count() >= end && expected.count() >= end);
  for (int64_t t = first; t < std::min(end, frames.count()); ++t) {
    for (int c = 0; c < D; ++c) {
      if (!CHECK(frames.at(t, c) == expected.at(t, c))) {
        std::fprintf(stderr, "  frame %lld channel %d: %g, as if: %g\n", static_cast<long long>(t), c,
                     static_cast<double>(frames.at(t, c)), static_cast<double>(expected.at(t, c)));
        return;
      }
    }
  }
}

void test_clock_other_needs_no_own_audio() {
  const Samples other = speech_like(kHop * 30, 1);
  for (const int k : {0, 1, 8}) {
    auto session = fake_session(fake_options(UNILS_CLOCK_OTHER, k, 1));
    Frames frames;
    push(*session, UNILS_TRACK_OTHER, other);
    CHECK(pull(*session, &frames, D) == 29);
    check_as_if(frames, 0, 29, silence(0), other, k, 1);
    unils_stats stats = {};
    CHECK_OK(session->get_stats(&stats));
    CHECK(stats.silent_own_frames == 29);
  }
}

void test_clock_other_does_not_wait_for_own_look_ahead() {
  auto session = fake_session(fake_options(UNILS_CLOCK_OTHER, 8, 0));
  const Samples other = speech_like(kHop, 1);
  Frames frames;
  push(*session, UNILS_TRACK_OTHER, other);
  CHECK(pull(*session, &frames, D) == 1);
}

void test_own_audio_pushed_early_waits_for_its_turn() {
  const Samples self = speech_like(kHop * 25 + 123, 1), other = speech_like(kHop * 30, 2);
  for (const int k : {0, 1, 8}) {
    auto session = fake_session(fake_options(UNILS_CLOCK_OTHER, k, 0));
    Frames frames;
    push(*session, UNILS_TRACK_SELF, self);
    CHECK(pull(*session, &frames, D) == 0);
    for (int64_t at = 0; at < kHop * 30; at += 160) {
      push(*session, UNILS_TRACK_OTHER, other, at, 160);
      pull(*session, &frames, D);
    }
    CHECK(frames.count() == 30);
    check_as_if(frames, 0, 30, self, other, k);
    unils_stats stats = {};
    CHECK_OK(session->get_stats(&stats));
    CHECK(stats.silent_own_frames == 5);  // the hop that own audio ends in lacks a part, and four more lack all
  }
}

void test_own_audio_that_comes_late_starts_at_the_next_frame_and_its_look_ahead_is_heard_again() {
  const Samples self = speech_like(kHop * 20, 1), other = speech_like(kHop * 30, 2);
  for (int k = 0; k <= 8; ++k) {
    auto session = fake_session(fake_options(UNILS_CLOCK_OTHER, k, 0));
    Frames frames;
    push(*session, UNILS_TRACK_OTHER, other, 0, kHop * 7);
    CHECK(pull(*session, &frames, D) == 7);
    push(*session, UNILS_TRACK_SELF, self);
    push(*session, UNILS_TRACK_OTHER, other, kHop * 7, kHop * 20);
    CHECK(pull(*session, &frames, D) == 20);
    check_as_if(frames, 0, 7, silence(0), other, k);
    check_as_if(frames, 7, 27, silence(kHop * 7) + self, other, k);
  }
}

void test_own_audio_live_beside_the_clock_is_heard_in_full() {
  // Both tracks come in small pieces; look-ahead rows are made of what has come and made again as more comes.
  const Samples self = speech_like(kHop * 40, 1), other = speech_like(kHop * 40, 2);
  for (const int k : {0, 1, 2, 8}) {
    for (const int64_t ahead : {int64_t{0}, int64_t{100}, kHop, 3 * kHop + 77}) {
      auto session = fake_session(fake_options(UNILS_CLOCK_OTHER, k, 0));
      Frames frames;
      push(*session, UNILS_TRACK_SELF, self, 0, ahead);
      for (int64_t at = 0; at < kHop * 40; at += 128) {
        const int64_t own = std::min<int64_t>(128, kHop * 40 - ahead - at);
        if (own > 0) push(*session, UNILS_TRACK_SELF, self, ahead + at, own);
        push(*session, UNILS_TRACK_OTHER, other, at, 128);
        pull(*session, &frames, D);
      }
      CHECK(frames.count() == 40);
      unils_stats stats = {};
      CHECK_OK(session->get_stats(&stats));
      CHECK(stats.silent_own_frames == 0);
      // In the frame's own hop nothing is missing, whatever the look-ahead guessed before.
      auto whole = fake_session(fake_options(UNILS_CLOCK_BOTH, 0, 0));
      const Frames expected = converse(*whole, D, self, 16000, other, 16000);
      for (int64_t t = 0; t < 40; ++t) {
        CHECK(frames.at(t, FakeEngine::kSelfNow) == expected.at(t, FakeEngine::kSelfNow));
        if (ahead >= (k + 1) * kHop && t < 40 - k) {
          auto both = frames.at(t, FakeEngine::kSelfNewest);
          CHECK(both == expected.at(t + k, FakeEngine::kSelfNow));
        }
      }
    }
  }
}

void test_an_utterance_that_ends_inside_a_hop_is_heard_to_its_end_and_the_next_starts_at_a_frame() {
  const Samples first = speech_like(kHop * 3 + 200, 1), second = speech_like(kHop * 4 + 10, 3),
                other = speech_like(kHop * 30, 2);
  for (const int k : {0, 2}) {
    auto session = fake_session(fake_options(UNILS_CLOCK_OTHER, k, 0));
    Frames frames;
    push(*session, UNILS_TRACK_SELF, first);
    push(*session, UNILS_TRACK_OTHER, other, 0, kHop * 4);
    CHECK(pull(*session, &frames, D) == 4);
    // Frame 3 is made: 440 samples of its hop are silence for good, and what comes now starts with hop 4.
    push(*session, UNILS_TRACK_SELF, second);
    push(*session, UNILS_TRACK_OTHER, other, kHop * 4, kHop * 20);
    CHECK(pull(*session, &frames, D) == 20);
    check_as_if(frames, 4, 24, first + silence(440) + second, other, k);
    unils_stats stats = {};
    CHECK_OK(session->get_stats(&stats));
    CHECK(stats.silent_own_frames == 1 + 1 + 15);
  }
}

void test_clock_self_hears_silence_on_the_other_track_and_refuses_audio_for_it() {
  const Samples self = speech_like(kHop * 10 + 5, 1);
  auto session = fake_session(fake_options(UNILS_CLOCK_SELF, 2, 3));
  int64_t taken = 0;
  CHECK_ERROR(session->push_audio(UNILS_TRACK_OTHER, self.data(), UNILS_FLOAT32, 10, 16000, &taken),
              UNILS_ERROR_INVALID_ARGUMENT, "clock SELF");
  Frames frames;
  push(*session, UNILS_TRACK_SELF, self);
  CHECK(pull(*session, &frames, D) == 8);
  CHECK_OK(session->finish());
  CHECK(pull(*session, &frames, D) == 3);
  check_as_if(frames, 0, 11, self, silence(0), 2, 3);
}

void test_finish_plays_own_audio_to_its_end_under_clock_other() {
  const Samples self = speech_like(kHop * 9 + 1, 1), other = speech_like(kHop * 4 + 10, 2);
  for (const int k : {0, 5}) {
    auto session = fake_session(fake_options(UNILS_CLOCK_OTHER, k, 0));
    Frames frames;
    push(*session, UNILS_TRACK_SELF, self);
    push(*session, UNILS_TRACK_OTHER, other);
    CHECK(pull(*session, &frames, D) == 4);
    CHECK_OK(session->finish());
    CHECK(pull(*session, &frames, D) == 6);
    check_as_if(frames, 0, 10, self, other, k);
  }
}

void test_drifting_tracks_lose_nothing_and_the_skew_is_reported() {
  // One device runs 1 % fast: its track waits, and in the end its pushes take less.
  const int64_t seconds = 30;
  const Samples self = speech_like(16160 * seconds, 1), other = speech_like(16000 * seconds, 2);
  auto session = fake_session(fake_options());
  Frames frames;
  for (int64_t i = 0; i < seconds * 100; ++i) {
    CHECK(push(*session, UNILS_TRACK_OTHER, other, i * 160, 160) == 160);
    const int64_t first = i * 16160 / 100;
    CHECK(push(*session, UNILS_TRACK_SELF, self, first, (i + 1) * 16160 / 100 - first) ==
          (i + 1) * 16160 / 100 - first);
    pull(*session, &frames, D);
  }
  CHECK(frames.count() == seconds * 25);
  check_as_if(frames, 0, seconds * 25, slice(self, 0, 16000 * seconds), other, 0);
  unils_stats stats = {};
  CHECK_OK(session->get_stats(&stats));
  CHECK(stats.skew_samples == 160 * seconds);
}

void test_interrupt_forgets_own_audio_from_the_next_frame_on_and_keeps_the_rest() {
  const Samples old_speech = speech_like(kHop * 20, 1), new_speech = speech_like(kHop * 20, 3),
                other = speech_like(kHop * 40, 2);
  for (const unils_clock clock : {UNILS_CLOCK_BOTH, UNILS_CLOCK_OTHER}) {
    for (int k = 0; k <= 8; ++k) {
      auto session = fake_session(fake_options(clock, k, 0));
      Frames frames;
      push(*session, UNILS_TRACK_SELF, old_speech);
      push(*session, UNILS_TRACK_OTHER, other, 0, kHop * 10);
      CHECK(pull(*session, &frames, D) == 10);
      int64_t generation = 0;
      CHECK_OK(session->interrupt(&generation));
      CHECK(generation == 1);
      unils_stats stats = {};
      CHECK_OK(session->get_stats(&stats));
      CHECK(stats.skew_samples == 0);  // both tracks end where the next frame begins
      push(*session, UNILS_TRACK_SELF, new_speech);
      push(*session, UNILS_TRACK_OTHER, other, kHop * 10, kHop * 20);
      const int64_t made = pull(*session, &frames, D);
      CHECK(made == (clock == UNILS_CLOCK_BOTH ? 20 - k : 20));
      check_as_if(frames, 0, 10, old_speech, other, k);
      check_as_if(frames, 10, 10 + made, slice(old_speech, 0, kHop * 10) + new_speech, other, k);
      for (int64_t t = 0; t < frames.count(); ++t) {
        CHECK(frames.index[static_cast<size_t>(t)] == t);
        CHECK(frames.generation[static_cast<size_t>(t)] == (t < 10 ? 0 : 1));
      }
    }
  }
}

void test_interrupt_of_resampled_audio_restarts_its_resampler() {
  const Samples old_speech = speech_like(48000, 1), new_speech = speech_like(24000, 3);
  auto session = fake_session(fake_options(UNILS_CLOCK_SELF));
  Frames frames;
  push(*session, UNILS_TRACK_SELF, old_speech, 48000);
  CHECK(pull(*session, &frames, D, 7) == 7);
  int64_t generation = 0;
  CHECK_OK(session->interrupt(&generation));
  CHECK_OK(session->interrupt(&generation));
  CHECK(generation == 2);
  CHECK(pull(*session, &frames, D) == 0);
  push(*session, UNILS_TRACK_SELF, new_speech, 48000);
  CHECK(pull(*session, &frames, D) == 12);
  auto alone = fake_session(fake_options(UNILS_CLOCK_SELF));
  push(*alone, UNILS_TRACK_SELF, new_speech, 48000);
  Frames expected;
  pull(*alone, &expected, D);
  // From the second hop on no window reaches back before the interruption.
  for (int64_t t = 1; t < 12; ++t)
    CHECK(frames.at(7 + t, FakeEngine::kSelfNow) == expected.at(t, FakeEngine::kSelfNow));
  CHECK(frames.generation[7] == 2);
}

void test_interrupt_at_the_edges_of_a_session() {
  auto session = fake_session(fake_options(UNILS_CLOCK_BOTH, 3, 0));
  const Samples speech = speech_like(kHop * 12, 1), other = speech_like(kHop * 12, 2);
  int64_t generation = 0;
  CHECK_OK(session->interrupt(&generation));  // before anything
  push(*session, UNILS_TRACK_SELF, other);
  CHECK_OK(session->interrupt(&generation));  // before the first frame
  push(*session, UNILS_TRACK_SELF, speech);
  push(*session, UNILS_TRACK_OTHER, other);
  CHECK_OK(session->finish());
  Frames frames;
  CHECK(pull(*session, &frames, D, 5) == 5);
  check_as_if(frames, 0, 5, speech, other, 3);
  CHECK_OK(session->interrupt(&generation));  // while draining: the other track plays out
  CHECK(generation == 3);
  CHECK(pull(*session, &frames, D) == 7);
  check_as_if(frames, 5, 12, slice(speech, 0, kHop * 5), other, 3);
}

}  // namespace

int main() {
  test_clock_other_needs_no_own_audio();
  test_clock_other_does_not_wait_for_own_look_ahead();
  test_own_audio_pushed_early_waits_for_its_turn();
  test_own_audio_that_comes_late_starts_at_the_next_frame_and_its_look_ahead_is_heard_again();
  test_own_audio_live_beside_the_clock_is_heard_in_full();
  test_an_utterance_that_ends_inside_a_hop_is_heard_to_its_end_and_the_next_starts_at_a_frame();
  test_clock_self_hears_silence_on_the_other_track_and_refuses_audio_for_it();
  test_finish_plays_own_audio_to_its_end_under_clock_other();
  test_drifting_tracks_lose_nothing_and_the_skew_is_reported();
  test_interrupt_forgets_own_audio_from_the_next_frame_on_and_keeps_the_rest();
  test_interrupt_of_resampled_audio_restarts_its_resampler();
  test_interrupt_at_the_edges_of_a_session();
  return check::result();
}
