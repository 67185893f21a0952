// Sessions that smooth: the same frames as smoothing a whole clip, four frames later, with the generations, snapshots
// and ranges of any other session.
#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "conversation.h"
#include "fake_engine.h"
#include "model/model.h"
#include "postprocess/savitzky_golay.h"
#include "published_bundle.h"
#include "session/session.h"
#include "session/snapshot.h"

namespace {

using namespace unils;

constexpr int D = FakeEngine::kChannels;
using Bytes = std::vector<char>;

unils_session_options with_smoothing(unils_session_options options) {
  options.smoothing = 1;
  return options;
}

// A whole clip, smoothed.
Frames smooth(Frames clip) {
  const Frames raw = clip;
  if (raw.count() < SavitzkyGolay::kFrames) return raw;
  for (int64_t t = 0; t < raw.count(); ++t) {
    const int64_t begin = std::clamp<int64_t>(t - 4, 0, raw.count() - 9);
    std::array<const float*, 9> frames;
    for (size_t i = 0; i < 9; ++i) frames[i] = raw.values.data() + (begin + static_cast<int64_t>(i)) * raw.channels;
    SavitzkyGolay::smooth(frames, static_cast<int>(t - begin), raw.channels,
                          clip.values.data() + t * raw.channels);
  }
  return clip;
}

Bytes snapshot(Session& session) {
  Bytes bytes(session.snapshot_bytes());
  CHECK_OK(session.snapshot(bytes.data(), bytes.size()));
  return bytes;
}

void test_a_frame_leaves_when_the_fourth_after_it_is_made() {
  const Samples audio = speech_like(640 * 30, 1);
  const auto session = fake_session(with_smoothing(fake_options())), plain = fake_session(fake_options());
  Frames frames, raw;
  for (int64_t hop = 0; hop < 30; ++hop) {
    for (Session* each : {session.get(), plain.get()}) {
      push(*each, UNILS_TRACK_SELF, audio, 640 * hop, 640);
      push(*each, UNILS_TRACK_OTHER, audio, 640 * hop, 640);
    }
    pull(*plain, &raw, D);
    const int64_t left = hop < 8 ? 0 : hop + 1 - 4;
    int64_t ready = -1;
    CHECK_OK(session->frames_ready(&ready));
    CHECK(ready == left - frames.count());
    CHECK(pull(*session, &frames, D) == ready && frames.count() == left);
    unils_stats stats = {};
    CHECK_OK(session->get_stats(&stats));
    CHECK(stats.frames == hop + 1);
  }
  CHECK_OK(session->finish());
  int64_t ready = 0;
  CHECK_OK(session->frames_ready(&ready));
  CHECK(ready == 4 && pull(*session, &frames, D, 3) == 3 && pull(*session, &frames, D) == 1);
  CHECK(pull(*session, &frames, D) == 0);
  CHECK(frames == smooth(raw) && frames.values != raw.values);
}

void test_clips_of_every_length_are_smoothed_as_a_whole() {
  for (int64_t count = 0; count <= 40; ++count) {
    const Samples self = speech_like(640 * count, 1), other = speech_like(640 * count, 2);
    const auto options = fake_options(UNILS_CLOCK_BOTH, 2, 0);
    const Frames raw = converse(*fake_session(options), D, self, 16000, other, 16000);
    CHECK(raw.count() == count);
    CHECK(converse(*fake_session(with_smoothing(options)), D, self, 16000, other, 16000) == smooth(raw));
  }
}

// The same pushes, pulls and interruptions for both; returns every frame.
Frames live(Session& session, uint32_t seed, bool with_pulls) {
  std::mt19937 random(seed);
  const auto up_to = [&random](int64_t most) { return std::uniform_int_distribution<int64_t>(0, most)(random); };
  const Samples audio = speech_like(16000 * 6, seed);
  Frames frames;
  int64_t done[2] = {};
  for (int i = 0; i < 120; ++i) {
    const auto track = static_cast<unils_track>(up_to(1));
    const int64_t left = static_cast<int64_t>(audio.size()) - done[track];
    done[track] += push(session, track, audio, done[track], std::min(up_to(2500), left));
    const int64_t most = up_to(6);
    int64_t generation = 0;
    if (up_to(20) == 0) {
      // What is interrupted is the next frame to be made: make all, so that both sessions mean the same one.
      while (pull(session, &frames, D) > 0) {
      }
      CHECK_OK(session.interrupt(&generation));
    } else if (with_pulls) {
      pull(session, &frames, D, most);
    }
  }
  CHECK_OK(session.finish());
  while (pull(session, &frames, D) > 0) {
  }
  return frames;
}

void test_frames_keep_the_generation_in_which_they_were_made() {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const Frames raw = live(*fake_session(fake_options(UNILS_CLOCK_BOTH, 1, 0)), seed, false);
    CHECK(raw.count() > 60);
    for (const bool with_pulls : {false, true}) {
      const auto session = fake_session(with_smoothing(fake_options(UNILS_CLOCK_BOTH, 1, 0)));
      CHECK(live(*session, seed, with_pulls) == smooth(raw));
    }
  }
}

void test_a_pull_hands_over_one_generation() {
  const Samples audio = speech_like(640 * 40, 1);
  const auto session = fake_session(with_smoothing(fake_options(UNILS_CLOCK_OTHER)));
  Frames frames;
  push(*session, UNILS_TRACK_OTHER, audio, 0, 640 * 20);
  CHECK(pull(*session, &frames, D) == 16);
  int64_t generation = 0;
  CHECK_OK(session->interrupt(&generation));
  push(*session, UNILS_TRACK_OTHER, audio, 640 * 20, 640 * 20);
  int64_t ready = 0;
  CHECK_OK(session->frames_ready(&ready));
  CHECK(ready == 20);
  CHECK(pull(*session, &frames, D) == 4 && pull(*session, &frames, D) == 16);
  CHECK(frames.generation[19] == 0 && frames.generation[20] == 1 && frames.index[20] == 20);
}

void test_a_session_restored_in_the_middle_of_the_filter_goes_on_bit_by_bit() {
  const Samples audio = speech_like(640 * 40, 3);
  const auto options = with_smoothing(fake_options(UNILS_CLOCK_BOTH, 1, 0));
  const auto rest = [&](Session& session, int64_t from) {
    Frames frames;
    push(session, UNILS_TRACK_SELF, audio, from, 640 * 40 - from);
    push(session, UNILS_TRACK_OTHER, audio, from, 640 * 40 - from);
    pull(session, &frames, D, 5);
    CHECK_OK(session.finish());
    while (pull(session, &frames, D, 3) > 0) {
    }
    return frames;
  };
  for (int64_t hops = 0; hops < 30; ++hops) {
    const auto session = fake_session(options), other = fake_session(options);
    Frames frames, dirt;
    push(*session, UNILS_TRACK_SELF, audio, 0, 640 * hops);
    push(*session, UNILS_TRACK_OTHER, audio, 0, 640 * hops);
    pull(*session, &frames, D, hops % 3 == 0 ? 1000 : hops / 2);
    int64_t generation = 0;
    if (hops % 4 == 0) CHECK_OK(session->interrupt(&generation));
    push(*other, UNILS_TRACK_SELF, audio, 0, 640 * 20);
    push(*other, UNILS_TRACK_OTHER, audio, 0, 640 * 20);
    pull(*other, &dirt, D);
    const Bytes bytes = snapshot(*session);
    CHECK_OK(other->restore(bytes.data(), bytes.size()));
    CHECK(snapshot(*other) == bytes);
    const Frames wanted = rest(*session, 640 * hops);
    CHECK(wanted.count() > 0 && rest(*other, 640 * hops) == wanted);
  }
}

// Changes a snapshot, as nothing but a test should, and signs it again.
Bytes forged(Bytes bytes, const std::function<void(SessionCounters*, int64_t* generations)>& change) {
  SnapshotHeader header;
  SessionCounters counters;
  std::memcpy(&header, bytes.data(), sizeof header);
  char* body = bytes.data() + sizeof header;
  std::memcpy(&counters, body, sizeof counters);
  constexpr size_t kQueued = 9;
  int64_t generations[kQueued];
  char* generations_at = body + sizeof counters + 2 * AudioRing::kCapacity * sizeof(float) +
                         round_up(kQueued * D * sizeof(float), kCacheLine);
  std::memcpy(generations, generations_at, sizeof generations);
  change(&counters, generations);
  std::memcpy(generations_at, generations, sizeof generations);
  std::memcpy(body, &counters, sizeof counters);
  Checksum checksum;
  checksum.add(body, bytes.size() - sizeof header);
  header.checksum = checksum.value();
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

void test_what_no_session_can_have_is_refused() {
  const Samples audio = speech_like(640 * 20, 4);
  const auto session = fake_session(with_smoothing(fake_options()));
  Frames frames;
  int64_t generation = 0;
  push(*session, UNILS_TRACK_SELF, audio);
  push(*session, UNILS_TRACK_OTHER, audio);
  CHECK(pull(*session, &frames, D, 10) == 10);
  CHECK_OK(session->interrupt(&generation));
  const Bytes good = snapshot(*session);  // frames [10, 14) of generation 0
  const auto refused = [&](const char* sentence, const std::function<void(SessionCounters*, int64_t*)>& change) {
    const Bytes bytes = forged(good, change);
    CHECK_ERROR(session->restore(bytes.data(), bytes.size()), UNILS_ERROR_INVALID_ARGUMENT, sentence);
  };
  const Bytes same = forged(good, [](SessionCounters* c, int64_t* g) {
    CHECK(c->queue.first == 10 && c->queue.end == 14 && c->generation == 1 && g[10 % 9] == 0);
  });
  CHECK(same == good);
  refused("damaged", [](SessionCounters* c, int64_t*) { c->queue.first = 8; });   // has left when 13 was made
  refused("damaged", [](SessionCounters* c, int64_t*) { c->queue.first = 11; });  // waits for 15
  refused("damaged", [](SessionCounters* c, int64_t*) { c->queue.first = 14; });
  refused("contradicts itself", [](SessionCounters*, int64_t* g) { g[10 % 9] = -1; });
  refused("contradicts itself", [](SessionCounters*, int64_t* g) { g[13 % 9] = 2; });
  refused("contradicts itself", [](SessionCounters*, int64_t* g) { g[11 % 9] = 1; });
  CHECK_OK(session->restore(good.data(), good.size()));
  const auto plain = fake_session(fake_options());
  const Bytes other = snapshot(*plain);
  CHECK_ERROR(session->restore(other.data(), other.size()), UNILS_ERROR_INVALID_ARGUMENT, "other options");
  CHECK_OK(session->reset());
  CHECK(snapshot(*session) == snapshot(*fake_session(with_smoothing(fake_options()))));
}

void test_the_rig_keeps_its_range_after_smoothing() {
  const Samples audio = speech_like(640 * 60, 5);
  const auto session_of = [](const char* rig, int smoothing) {
    SessionSpec spec = fake_spec();
    spec.rig = rig;
    unils_session_options options = fake_options();
    options.smoothing = smoothing;
    std::unique_ptr<Session> session;
    CHECK_OK(Session::create(std::move(spec), options, &session));
    return session;
  };
  // Frames that count 0 to 60, and loudness far below 0, are out of the range of blendshapes.
  Frames wanted = smooth(converse(*session_of("flame", 0), D, audio, 16000, audio, 16000));
  for (float& value : wanted.values) value = std::min(1.0f, std::max(0.0f, value));
  CHECK(converse(*session_of("arkit", 1), D, audio, 16000, audio, 16000) == wanted);
  CHECK(wanted.at(0, FakeEngine::kIndex) < 1e-5f && wanted.at(1, FakeEngine::kIndex) > 1.0f - 1e-5f);
}

void test_a_step_that_fails_loses_no_frame() {
  auto engine = std::make_unique<FakeEngine>();
  FakeEngine* handle = engine.get();
  handle->fail_at = 12;
  const auto session = fake_session(with_smoothing(fake_options()), std::move(engine));
  const Samples audio = speech_like(640 * 20, 6);
  push(*session, UNILS_TRACK_SELF, audio);
  push(*session, UNILS_TRACK_OTHER, audio);
  Frames frames;
  CHECK(pull(*session, &frames, D) == 8);  // those that 0..11 settle
  std::vector<float> values(D);
  int64_t count = 1;
  CHECK_ERROR(session->pull_frames({values.data(), nullptr, nullptr, nullptr}, 1, &count), UNILS_ERROR_BACKEND, "told");
  CHECK(count == 0);
  handle->fail_at = -1;
  pull(*session, &frames, D);
  CHECK_OK(session->finish());
  pull(*session, &frames, D);
  CHECK(frames == smooth(converse(*fake_session(fake_options()), D, audio, 16000, audio, 16000)));
}

void test_windows_are_smoothed_over_their_seams() {
  const TemporaryFolder folder("unils_smoothing");
  PublishedBundle().write(folder / "bundle");
  FakeRunner runner;
  std::shared_ptr<const Model> model;
  CHECK_OK(Model::load((folder / "bundle").c_str(), nullptr, 1, &model, &runner.table));
  const auto session_of = [&](int smoothing) {
    unils_session_options options = SessionSpec::default_options(*model);
    options.smoothing = smoothing;
    SessionSpec spec;
    CHECK_OK(SessionSpec::from_model(model, &spec));
    spec.rig = "flame";  // has no range to be kept in
    std::unique_ptr<Session> session;
    CHECK_OK(Session::create(std::move(spec), options, &session));
    return session;
  };
  for (const int64_t count : {1, 5, 8, 9, 11, 12, 13, 16, 17, 20, 21, 24, 40, 61}) {
    const Samples self = speech_like(640 * count, 7), other = speech_like(640 * count, 8);
    const Frames wanted = smooth(converse(*session_of(0), 55, self, 16000, other, 16000));
    CHECK(wanted.count() == count);
    CHECK(converse(*session_of(1), 55, self, 16000, other, 16000) == wanted);
    const auto by_twos = session_of(1);
    Frames frames;
    for (int64_t at = 0; at < count; ++at) {
      push(*by_twos, UNILS_TRACK_SELF, self, 640 * at, 640);
      push(*by_twos, UNILS_TRACK_OTHER, other, 640 * at, 640);
      pull(*by_twos, &frames, 55, 2);
    }
    CHECK_OK(by_twos->finish());
    while (pull(*by_twos, &frames, 55, 2) > 0) {
    }
    CHECK(frames == wanted);
  }
  unils_latency latency = {};
  CHECK_OK(session_of(1)->get_latency(&latency));
  CHECK(latency.smoothing_ms == 160.0 && latency.total_ms == 40 * 12 + 160.0);
}

void test_latency_and_options_say_what_smoothing_is() {
  for (const auto clock : {UNILS_CLOCK_BOTH, UNILS_CLOCK_OTHER, UNILS_CLOCK_SELF}) {
    unils_latency plain = {}, latency = {};
    CHECK_OK(fake_session(fake_options(clock, 3, 1))->get_latency(&plain));
    CHECK_OK(fake_session(with_smoothing(fake_options(clock, 3, 1)))->get_latency(&latency));
    CHECK(plain.smoothing_ms == 0.0 && latency.smoothing_ms == 160.0);
    CHECK(latency.total_ms == plain.total_ms + 160.0);
  }
  for (const int bad : {-1, 2, 1 << 30}) {
    auto options = fake_options();
    options.smoothing = bad;
    std::unique_ptr<Session> session;
    CHECK_ERROR(Session::create(fake_spec(), options, &session), UNILS_ERROR_INVALID_ARGUMENT, "smoothing is");
  }
}

}  // namespace

int main() {
  test_a_frame_leaves_when_the_fourth_after_it_is_made();
  test_clips_of_every_length_are_smoothed_as_a_whole();
  test_frames_keep_the_generation_in_which_they_were_made();
  test_a_pull_hands_over_one_generation();
  test_a_session_restored_in_the_middle_of_the_filter_goes_on_bit_by_bit();
  test_what_no_session_can_have_is_refused();
  test_the_rig_keeps_its_range_after_smoothing();
  test_a_step_that_fails_loses_no_frame();
  test_windows_are_smoothed_over_their_seams();
  test_latency_and_options_say_what_smoothing_is();
  return check::result();
}
