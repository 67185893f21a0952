// A session over a FakeEngine: the same frames however audio is cut and pulled, what a frame hears, what is refused.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "conversation.h"
#include "fake_engine.h"
#include "session/session.h"

namespace {

using namespace unils;

constexpr int D = FakeEngine::kChannels;

// Pushes both tracks in random pieces, pulls at random moments and in random amounts.
Frames converse_in_pieces(Session& session, const Samples& self, int self_rate, const Samples& other, int other_rate,
                          uint32_t seed) {
  std::mt19937 random(seed);
  const auto up_to = [&random](int64_t most) { return std::uniform_int_distribution<int64_t>(0, most)(random); };
  const int64_t largest = int64_t{16} << up_to(11);
  Frames frames;
  int64_t done[2] = {0, 0};
  const Samples* tracks[2] = {&self, &other};
  const int rates[2] = {self_rate, other_rate};
  const int64_t counts[2] = {static_cast<int64_t>(self.size()), static_cast<int64_t>(other.size())};
  while (done[0] < counts[0] || done[1] < counts[1]) {
    const auto track = static_cast<unils_track>(up_to(1));
    const int64_t piece = std::min(up_to(largest), counts[track] - done[track]);
    done[track] += push(session, track, *tracks[track], done[track], piece, rates[track]);
    if (up_to(3) == 0) pull(session, &frames, D, up_to(5));
  }
  CHECK_OK(session.finish());
  while (pull(session, &frames, D, 1 + up_to(7)) > 0) {
  }
  return frames;
}

void test_frames_do_not_depend_on_how_audio_was_cut_or_frames_were_pulled() {
  const int rates[][2] = {{16000, 16000}, {24000, 48000}, {44100, 8000},  {22050, 16000},
                          {8000, 32000},  {96000, 12345}, {11025, 47999}, {48000, 24000}};
  uint32_t seed = 1;
  for (const auto& rate : rates) {
    const Samples self = speech_like(rate[0] * 3 + 123, ++seed), other = speech_like(rate[1] * 3 + 77, ++seed);
    auto whole = fake_session(fake_options(UNILS_CLOCK_BOTH, 2, 1));
    const Frames expected = converse(*whole, D, self, rate[0], other, rate[1]);
    CHECK(expected.count() == 76);
    for (int trial = 0; trial < 4; ++trial) {
      auto pieces = fake_session(fake_options(UNILS_CLOCK_BOTH, 2, 1));
      CHECK(converse_in_pieces(*pieces, self, rate[0], other, rate[1], ++seed) == expected);
    }
  }
}

void test_streaming_equals_one_push_over_many_ring_wraps() {
  const int64_t count = 16000 * 45;  // more than four times the ring
  const Samples self = speech_like(count, 1), other = speech_like(count, 2);
  auto bursts = fake_session(fake_options(UNILS_CLOCK_BOTH, 1, 0));
  const Frames expected = converse(*bursts, D, self, 16000, other, 16000);
  CHECK(expected.count() == count / 640);
  auto live = fake_session(fake_options(UNILS_CLOCK_BOTH, 1, 0));
  Frames frames;
  for (int64_t at = 0; at < count; at += 320) {
    CHECK(push(*live, UNILS_TRACK_SELF, self, at, 320) == 320);
    CHECK(push(*live, UNILS_TRACK_OTHER, other, at, 320) == 320);
    pull(*live, &frames, D);
  }
  CHECK_OK(live->finish());
  pull(*live, &frames, D);
  CHECK(frames == expected);
  for (int64_t t = 0; t < frames.count(); ++t) {
    const auto i = static_cast<size_t>(t);
    CHECK(frames.index[i] == t && frames.generation[i] == 0 && frames.pts_seconds[i] == static_cast<double>(t) / 25.0);
  }
}

void test_a_frame_hears_its_look_ahead_and_nothing_beyond() {
  constexpr int64_t kHops = 16;
  const Samples silence(640 * kHops, 0.0f);
  for (int look_ahead = 0; look_ahead <= 8; ++look_ahead) {
    for (const unils_track track : {UNILS_TRACK_SELF, UNILS_TRACK_OTHER}) {
      const auto options = track == UNILS_TRACK_SELF ? fake_options(UNILS_CLOCK_BOTH, look_ahead, 0)
                                                     : fake_options(UNILS_CLOCK_BOTH, 0, look_ahead);
      auto quiet_session = fake_session(options);
      const Frames quiet = converse(*quiet_session, D, silence, 16000, silence, 16000);
      for (const int64_t hop : {0, 1, 9, 15}) {
        Samples impulse = silence;
        impulse[static_cast<size_t>(640 * hop + 100)] = 1.0f;
        auto session = fake_session(options);
        const Frames frames = track == UNILS_TRACK_SELF ? converse(*session, D, impulse, 16000, silence, 16000)
                                                        : converse(*session, D, silence, 16000, impulse, 16000);
        const int side = track;
        const int seen = FakeEngine::kSelfSeen + side;
        const int64_t first = std::max<int64_t>(0, hop - look_ahead);
        for (int64_t t = 0; t < kHops; ++t) {
          CHECK((frames.at(t, seen) != quiet.at(t, seen)) == (t >= first));
          CHECK((frames.at(t, FakeEngine::kSelfNow + side) > kSilentLoudness + 0.01f) == (t == hop));
          const int unheard = FakeEngine::kOtherSeen - side;
          CHECK(frames.at(t, unheard) == quiet.at(t, unheard));
        }
      }
    }
  }
}

void test_a_frame_is_ready_with_the_sample_that_completes_it() {
  for (int k = 0; k <= 8; k += 4) {
    auto session = fake_session(fake_options(UNILS_CLOCK_BOTH, k, 1));
    const Samples audio = speech_like(640 * 12, 5);
    push(*session, UNILS_TRACK_OTHER, audio);
    int64_t ready = -1;
    Frames frames;
    push(*session, UNILS_TRACK_SELF, audio, 0, 640 * (k + 1) - 1);
    CHECK_OK(session->frames_ready(&ready));
    CHECK(ready == 0 && pull(*session, &frames, D) == 0);
    push(*session, UNILS_TRACK_SELF, audio, 640 * (k + 1) - 1, 1);
    CHECK_OK(session->frames_ready(&ready));
    CHECK(ready == 1 && pull(*session, &frames, D) == 1);
    CHECK_OK(session->frames_ready(&ready));
    CHECK(ready == 0);
  }
}

void test_resampled_audio_waits_for_no_more_than_the_stated_delay() {
  for (const int rate : {8000, 22050, 44100, 48000, 96000}) {
    auto session = fake_session(fake_options(UNILS_CLOCK_SELF));
    const Samples audio = speech_like(rate / 4, 5);
    push(*session, UNILS_TRACK_SELF, audio, 0, 1, rate);
    unils_latency latency = {};
    CHECK_OK(session->get_latency(&latency));
    CHECK(latency.resampler_self_ms > 2.0 && latency.resampler_self_ms <= 4.0);
    CHECK_NEAR(latency.total_ms, 40.0 + latency.resampler_self_ms, 1e-9);
    Frames frames;
    double latest = 0.0;
    for (int64_t i = 1; i < rate / 4; ++i) {
      push(*session, UNILS_TRACK_SELF, audio, i, 1, rate);
      if (pull(*session, &frames, D) == 1) {
        latest =
            std::max(latest, 1000.0 * static_cast<double>(i + 1) / rate - 40.0 * static_cast<double>(frames.count()));
      }
    }
    CHECK(latest <= latency.resampler_self_ms + 1e-9);
    CHECK(latest > latency.resampler_self_ms - 1000.0 / rate - 0.05);
  }
}

void test_finish_pads_to_whole_hops_and_the_longer_track() {
  const int64_t lengths[][2] = {{0, 0},     {1, 0},       {0, 1},      {639, 640},   {640, 641},
                                {1279, 3},  {6400, 6401}, {123, 9876}, {12345, 640}, {6399, 6399}};
  for (const auto& length : lengths) {
    for (const int k : {0, 3, 8}) {
      const Samples self = speech_like(length[0], 3), other = speech_like(length[1], 4);
      auto session = fake_session(fake_options(UNILS_CLOCK_BOTH, k, 0));
      const Frames frames = converse(*session, D, self, 16000, other, 16000);
      const int64_t count = (std::max(length[0], length[1]) + 639) / 640;
      CHECK(frames.count() == count);
      Samples self_padded = self, other_padded = other;
      self_padded.resize(static_cast<size_t>(count + k) * 640);
      other_padded.resize(static_cast<size_t>(count + k) * 640);
      auto padded = fake_session(fake_options(UNILS_CLOCK_BOTH, k, 0));
      push(*padded, UNILS_TRACK_SELF, self_padded);
      push(*padded, UNILS_TRACK_OTHER, other_padded);
      Frames expected;
      pull(*padded, &expected, D, count);
      CHECK(frames == expected);
    }
  }
  for (const int rate : {8000, 44100, 48000}) {
    for (const int64_t count : {1, 99, 100, 101, rate / 25, rate / 25 + 1, rate}) {
      auto session = fake_session(fake_options(UNILS_CLOCK_SELF));
      const Samples audio = speech_like(count, 6);
      push(*session, UNILS_TRACK_SELF, audio, rate);
      CHECK_OK(session->finish());
      Frames frames;
      pull(*session, &frames, D);
      CHECK(frames.count() == (count * 25 + rate - 1) / rate);
    }
  }
}

void test_after_finish_audio_is_refused_and_frames_go_on() {
  auto session = fake_session(fake_options());
  const Samples audio = speech_like(6400, 1);
  push(*session, UNILS_TRACK_SELF, audio);
  CHECK_OK(session->finish());
  CHECK_OK(session->finish());
  int64_t taken = 0;
  for (const unils_track track : {UNILS_TRACK_SELF, UNILS_TRACK_OTHER}) {
    CHECK_ERROR(session->push_audio(track, audio.data(), UNILS_FLOAT32, 1, 16000, &taken), UNILS_ERROR_STATE,
                "finished");
  }
  Frames frames;
  CHECK(pull(*session, &frames, D, 3) == 3 && pull(*session, &frames, D, 100) == 7 && pull(*session, &frames, D) == 0);
  CHECK_OK(session->reset());
  CHECK(push(*session, UNILS_TRACK_SELF, audio) == 6400);
}

void test_bursts_wait_in_the_ring_and_nothing_is_lost() {
  const Samples self = speech_like(16000 * 40, 1), other = speech_like(16000 * 40, 2);
  auto steady = fake_session(fake_options());
  const Frames expected = converse(*steady, D, self, 16000, other, 16000);
  auto session = fake_session(fake_options());
  Frames frames;
  // All of one track at once, as a text-to-speech engine gives it; the other comes at its own pace.
  int64_t s = push(*session, UNILS_TRACK_SELF, self);
  CHECK(s >= 10 * 16000 && s < 11 * 16000);
  CHECK(pull(*session, &frames, D) == 0);
  for (int64_t o = 0; o < 16000 * 40; o += 160) {
    CHECK(push(*session, UNILS_TRACK_OTHER, other, o, 160) == 160);
    pull(*session, &frames, D);
    if (s < 16000 * 40) s += push(*session, UNILS_TRACK_SELF, self, s, 16000 * 40 - s);
  }
  CHECK(frames == expected);
  unils_stats stats = {};
  CHECK_OK(session->get_stats(&stats));
  CHECK(stats.refused_samples > 0 && stats.frames == 1000 && stats.skew_samples == 0);
  CHECK(stats.samples_self == 16000 * 40 && stats.samples_other == 16000 * 40);
}

void test_audio_that_is_not_finite_is_refused_and_changes_nothing() {
  const Samples audio = speech_like(6400, 1);
  auto clean = fake_session(fake_options());
  const Frames expected = converse(*clean, D, audio, 16000, audio, 16000);
  auto session = fake_session(fake_options());
  Samples bad = audio;
  bad[100] = std::numeric_limits<float>::quiet_NaN();
  int64_t taken = 1;
  CHECK_ERROR(session->push_audio(UNILS_TRACK_OTHER, bad.data(), UNILS_FLOAT32, 6400, 16000, &taken),
              UNILS_ERROR_NOT_FINITE, "sample 100 of this push to track other");
  CHECK(taken == 0);
  CHECK(converse(*session, D, audio, 16000, audio, 16000) == expected);
}

void test_a_step_that_fails_loses_no_frame() {
  auto engine = std::make_unique<FakeEngine>();
  FakeEngine* handle = engine.get();
  handle->fail_at = 4;
  auto session = fake_session(fake_options(), std::move(engine));
  const Samples audio = speech_like(6400, 1);
  push(*session, UNILS_TRACK_SELF, audio);
  push(*session, UNILS_TRACK_OTHER, audio);
  Frames frames;
  CHECK(pull(*session, &frames, D) == 4);
  std::vector<float> values(D);
  const unils_frames out = {values.data(), nullptr, nullptr, nullptr};
  int64_t count = 1;
  CHECK_ERROR(session->pull_frames(out, 1, &count), UNILS_ERROR_BACKEND, "told to fail");
  CHECK(count == 0);
  handle->fail_at = -1;
  CHECK(pull(*session, &frames, D) == 6);
  auto whole = fake_session(fake_options());
  push(*whole, UNILS_TRACK_SELF, audio);
  push(*whole, UNILS_TRACK_OTHER, audio);
  Frames expected;
  pull(*whole, &expected, D);
  CHECK(frames == expected);
}

void test_reset_is_as_new() {
  std::vector<float> style(25 * D, 0.25f);
  auto options = fake_options(UNILS_CLOCK_BOTH, 1, 1);
  options.style = style.data();
  options.style_frames = 25;
  auto session = fake_session(options);
  std::fill(style.begin(), style.end(), 9.0f);  // the session has its own copy
  const Samples self = speech_like(9999, 1), other = speech_like(12000, 2);
  const Frames first = converse(*session, D, self, 24000, other, 16000);
  CHECK(first.at(0, FakeEngine::kStyle) == 50.0f);
  int64_t generation = 0;
  CHECK_OK(session->interrupt(&generation));
  CHECK_OK(session->reset());
  unils_stats stats = {};
  CHECK_OK(session->get_stats(&stats));
  CHECK(stats.frames == 0 && stats.samples_self == 0 && stats.refused_samples == 0 && stats.step_p99_us == 0.0);
  CHECK(converse(*session, D, self, 24000, other, 16000) == first);
  // A reset also frees the rates.
  CHECK_OK(session->reset());
  CHECK(push(*session, UNILS_TRACK_SELF, self, 0, 100, 8000) == 100);
}

void test_stats_and_latency_tell_the_truth() {
  auto session = fake_session(fake_options(UNILS_CLOCK_BOTH, 2, 1));
  unils_latency latency = {};
  CHECK_OK(session->get_latency(&latency));
  CHECK(latency.hop_ms == 40.0 && latency.look_ahead_self_ms == 80.0 && latency.look_ahead_other_ms == 40.0);
  CHECK(latency.resampler_self_ms == 0.0 && latency.resampler_other_ms == 0.0 && latency.total_ms == 120.0);
  const Samples audio = speech_like(48000, 1);
  push(*session, UNILS_TRACK_SELF, audio, 0, 48000, 48000);
  push(*session, UNILS_TRACK_OTHER, audio, 0, 12000, 16000);
  unils_stats stats = {};
  CHECK_OK(session->get_stats(&stats));
  CHECK(stats.samples_self == 16000 && stats.samples_other == 12000 && stats.skew_samples == 4000);
  CHECK(stats.session_bytes > 1 << 20 && stats.session_bytes < 2 << 20);
  Frames frames;
  pull(*session, &frames, D);
  CHECK_OK(session->get_stats(&stats));
  CHECK(stats.frames == frames.count() && stats.frames == 17);
  CHECK(stats.step_p50_us > 0.0 && stats.step_p50_us <= stats.step_p95_us && stats.step_p95_us <= stats.step_p99_us);
  CHECK(stats.skew_samples == 4000 && stats.silent_own_frames == 0);

  for (const auto clock : {UNILS_CLOCK_OTHER, UNILS_CLOCK_SELF}) {
    auto one = fake_session(fake_options(clock, 3, 1));
    CHECK_OK(one->get_latency(&latency));
    CHECK(latency.total_ms == (clock == UNILS_CLOCK_OTHER ? 80.0 : 160.0));
  }
}

void test_options_out_of_range_are_refused() {
  const auto refused = [](auto change, const char* text) {
    auto options = fake_options();
    change(options);
    std::unique_ptr<Session> session;
    CHECK_ERROR(Session::create(fake_spec(), options, &session), UNILS_ERROR_INVALID_ARGUMENT, text);
    CHECK(session == nullptr);
  };
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  static float style[501 * D] = {};
  refused([](auto& o) { std::memset(&o.clock, 3, sizeof o.clock); }, "clock");
  refused([](auto& o) { o.look_ahead_self = -1; }, "look_ahead_self");
  refused([](auto& o) { o.look_ahead_self = 9; }, "0 to 8");
  refused([](auto& o) { o.look_ahead_other = 9; }, "look_ahead_other");
  refused([](auto& o) { o.temperature = -0.1f; }, "temperature");
  refused([&](auto& o) { o.temperature = nan; }, "temperature");
  refused([&](auto& o) { o.temperature = infinity; }, "temperature");
  refused([](auto& o) { o.top_p = 0.0f; }, "top_p");
  refused([](auto& o) { o.top_p = 1.01f; }, "top_p");
  refused([&](auto& o) { o.top_p = nan; }, "top_p");
  refused([](auto& o) { o.cfg_scale = -1.0f; }, "cfg_scale");
  refused([&](auto& o) { o.cfg_scale = infinity; }, "cfg_scale");
  refused([](auto& o) { o.style_frames = 30; }, "style");
  refused([](auto& o) { o.style = style; }, "style");
  refused([](auto& o) { o.style = style, o.style_frames = -1; }, "style");
  refused([](auto& o) { o.style = style, o.style_frames = 24; }, "25 to 500");
  refused([](auto& o) { o.style = style, o.style_frames = 501; }, "25 to 500");
  refused([](auto& o) { o.style = style, o.style_frames = std::numeric_limits<int64_t>::max(); }, "25 to 500");
  style[7] = nan;
  refused([](auto& o) { o.style = style, o.style_frames = 25; }, "NaN");
}

void test_bad_arguments_are_refused_and_harmless() {
  auto session = fake_session(fake_options());
  const Samples audio = speech_like(640, 1);
  int64_t taken = 7;
  const auto push_bad = [&](int track, const void* samples, int format, int64_t count, int rate, const char* text) {
    CHECK_ERROR(session->push_audio(track, samples, format, count, rate, &taken), UNILS_ERROR_INVALID_ARGUMENT, text);
    CHECK(taken == 0);
  };
  push_bad(2, audio.data(), 1, 640, 16000, "track 2");
  push_bad(-1, audio.data(), 1, 640, 16000, "track");
  push_bad(0, audio.data(), 2, 640, 16000, "format 2");
  push_bad(0, audio.data(), 1, -1, 16000, "negative");
  push_bad(0, nullptr, 1, 640, 16000, "NULL");
  push_bad(0, audio.data(), 1, 640, 7999, "sample rate");
  CHECK_OK(session->push_audio(UNILS_TRACK_SELF, nullptr, UNILS_FLOAT32, 0, 16000, &taken));
  int64_t count = 7;
  CHECK_ERROR(session->pull_frames({}, 1, &count), UNILS_ERROR_INVALID_ARGUMENT, "values");
  CHECK_ERROR(session->pull_frames({}, -1, &count), UNILS_ERROR_INVALID_ARGUMENT, "capacity");
  CHECK_OK(session->pull_frames({}, 0, &count));
  CHECK(count == 0);
  const Frames frames = converse(*session, D, audio, 16000, audio, 16000);
  CHECK(frames.count() == 1);
}

}  // namespace

int main() {
  test_frames_do_not_depend_on_how_audio_was_cut_or_frames_were_pulled();
  test_streaming_equals_one_push_over_many_ring_wraps();
  test_a_frame_hears_its_look_ahead_and_nothing_beyond();
  test_a_frame_is_ready_with_the_sample_that_completes_it();
  test_resampled_audio_waits_for_no_more_than_the_stated_delay();
  test_finish_pads_to_whole_hops_and_the_longer_track();
  test_after_finish_audio_is_refused_and_frames_go_on();
  test_bursts_wait_in_the_ring_and_nothing_is_lost();
  test_audio_that_is_not_finite_is_refused_and_changes_nothing();
  test_a_step_that_fails_loses_no_frame();
  test_reset_is_as_new();
  test_stats_and_latency_tell_the_truth();
  test_options_out_of_range_are_refused();
  test_bad_arguments_are_refused_and_harmless();
  return check::result();
}
