// The session over the real engine and a random bundle: what a FakeEngine, whose frames forget each other, cannot show.
#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bundle_writer.h"
#include "check.h"
#include "conversation.h"
#include "model/model.h"
#include "session/session.h"

namespace {

using namespace unils;

constexpr int D = 55;
constexpr int64_t kHop = 640;

std::shared_ptr<const Model> model;

unils_session_options options_of(unils_clock clock, int look_ahead_self, int look_ahead_other) {
  unils_session_options options = SessionSpec::default_options(*model);
  options.clock = clock;
  options.look_ahead_self = look_ahead_self;
  options.look_ahead_other = look_ahead_other;
  return options;
}

std::unique_ptr<Session> session_of(const unils_session_options& options) {
  SessionSpec spec;
  std::unique_ptr<Session> session;
  CHECK_OK(SessionSpec::from_model(model, &spec));
  CHECK_OK(Session::create(std::move(spec), options, &session));
  return session;
}

void test_live_pieces_and_bursts_give_the_same_frames_over_many_ring_wraps() {
  const Samples self = speech_like(24000 * 35 + 11, 1), other = speech_like(48000 * 35, 2);
  auto bursts = session_of(options_of(UNILS_CLOCK_BOTH, 2, 1));
  const Frames expected = converse(*bursts, D, self, 24000, other, 48000);
  CHECK(expected.count() == 876);
  auto live = session_of(options_of(UNILS_CLOCK_BOTH, 2, 1));
  std::mt19937 random(1);
  Frames frames;
  int64_t s = 0, o = 0;
  while (s < static_cast<int64_t>(self.size()) || o < static_cast<int64_t>(other.size())) {
    const int64_t piece = std::uniform_int_distribution<int64_t>(0, 3000)(random);
    s += push(*live, UNILS_TRACK_SELF, self, s, std::min(piece, static_cast<int64_t>(self.size()) - s), 24000);
    o += push(*live, UNILS_TRACK_OTHER, other, o, std::min(2 * piece, static_cast<int64_t>(other.size()) - o), 48000);
    pull(*live, &frames, D, 1 + piece % 5);
  }
  CHECK_OK(live->finish());
  pull(*live, &frames, D);
  CHECK(frames == expected);
}

void test_hearing_the_same_again_after_an_interruption_changes_only_the_generation() {
  const Samples self = speech_like(kHop * 60, 1), other = speech_like(kHop * 60, 2);
  for (const int k : {0, 1, 3, 8}) {
    auto steady = session_of(options_of(UNILS_CLOCK_BOTH, k, 0));
    const Frames expected = converse(*steady, D, self, 16000, other, 16000);
    auto session = session_of(options_of(UNILS_CLOCK_BOTH, k, 0));
    Frames frames;
    int64_t generation = 0;
    push(*session, UNILS_TRACK_OTHER, other);
    for (int round = 0; round < 6; ++round) {
      push(*session, UNILS_TRACK_SELF, self, frames.count() * kHop, kHop * 60 - frames.count() * kHop);
      pull(*session, &frames, D, 7);
      CHECK_OK(session->interrupt(&generation));
    }
    push(*session, UNILS_TRACK_SELF, self, frames.count() * kHop, kHop * 60 - frames.count() * kHop);
    CHECK_OK(session->finish());
    pull(*session, &frames, D);
    CHECK(frames.values == expected.values && frames.index == expected.index);
    CHECK(frames.generation[6] == 0 && frames.generation[7] == 1 && frames.generation.back() == 6);
  }
}

void test_silence_that_is_pushed_and_audio_that_is_missing_are_the_same() {
  const Samples other = speech_like(kHop * 50, 2), silence(static_cast<size_t>(kHop * 50), 0.0f);
  for (const int k : {0, 2, 8}) {
    auto missing = session_of(options_of(UNILS_CLOCK_OTHER, k, 1));
    Frames expected;
    push(*missing, UNILS_TRACK_OTHER, other);
    pull(*missing, &expected, D);
    CHECK(expected.count() == 49);
    // Late, in pieces that end inside hops: every push makes look-ahead rows anew.
    auto session = session_of(options_of(UNILS_CLOCK_OTHER, k, 1));
    Frames frames;
    for (int64_t at = 0; at < kHop * 50; at += 500) {
      push(*session, UNILS_TRACK_OTHER, other, at, std::min<int64_t>(500, kHop * 50 - at));
      pull(*session, &frames, D, 1);
      if (at >= kHop * 10) push(*session, UNILS_TRACK_SELF, silence, 0, 300 + at % 777);
    }
    pull(*session, &frames, D);
    CHECK(frames == expected);
  }
}

void test_a_restored_session_goes_on_bit_by_bit() {
  const Samples self = speech_like(kHop * 60, 1), other = speech_like(48000 * 2, 2);
  std::vector<float> style(50 * D, 0.3f);
  auto options = options_of(UNILS_CLOCK_OTHER, 3, 0);
  options.style = style.data();
  options.style_frames = 50;
  auto session = session_of(options), restored = session_of(options);
  Frames before, expected, frames;
  push(*session, UNILS_TRACK_SELF, self);
  push(*session, UNILS_TRACK_OTHER, other, 0, 48001, 48000);
  pull(*session, &before, D, 19);
  std::vector<char> state(session->snapshot_bytes());
  CHECK_OK(session->snapshot(state.data(), state.size()));
  CHECK_OK(restored->restore(state.data(), state.size()));
  for (Session* each : {session.get(), restored.get()}) {
    Frames* out = each == session.get() ? &expected : &frames;
    push(*each, UNILS_TRACK_OTHER, other, 48001, 47999, 48000);
    CHECK_OK(each->finish());
    pull(*each, out, D);
  }
  CHECK(expected.count() == 60 - 19 && frames == expected);
  CHECK_OK(session->reset());
  Frames again;
  push(*session, UNILS_TRACK_SELF, self);
  push(*session, UNILS_TRACK_OTHER, other, 0, 48001, 48000);
  pull(*session, &again, D, 19);
  CHECK(again == before);
}

void test_the_seed_decides() {
  const Samples audio = speech_like(kHop * 20, 1);
  auto options = options_of(UNILS_CLOCK_BOTH, 1, 0);
  const auto frames_of = [&](uint64_t seed, float temperature) {
    options.seed = seed;
    options.temperature = temperature;
    auto session = session_of(options);
    return converse(*session, D, audio, 16000, audio, 16000);
  };
  CHECK(frames_of(1, 1.0f) == frames_of(1, 1.0f));
  CHECK(!(frames_of(1, 1.0f) == frames_of(2, 1.0f)));
  CHECK(!(frames_of(1, 1.0f) == frames_of(1 + (uint64_t{1} << 32), 1.0f)));
  CHECK(frames_of(1, 0.0f) == frames_of(2, 0.0f));
}

}  // namespace

int main() {
  const TemporaryFolder folder("unils_session_engine");
  BundleWriter().write(folder / "bundle");
  CHECK_OK(Model::load((folder / "bundle").c_str(), nullptr, 1, &model));
  if (model == nullptr) return check::result();
  test_live_pieces_and_bursts_give_the_same_frames_over_many_ring_wraps();
  test_hearing_the_same_again_after_an_interruption_changes_only_the_generation();
  test_silence_that_is_pushed_and_audio_that_is_missing_are_the_same();
  test_a_restored_session_goes_on_bit_by_bit();
  test_the_seed_decides();
  return check::result();
}
