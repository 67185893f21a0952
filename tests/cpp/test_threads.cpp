// Two pushing threads and a pulling one, with and without threads that have no business there. For ThreadSanitizer.
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bundle_writer.h"
#include "check.h"
#include "conversation.h"
#include "fake_engine.h"
#include "session/session.h"
#include "unils/unils.h"

namespace {

using namespace unils;

constexpr int D = FakeEngine::kChannels;

// Threads that have nothing to do leave the processor to those that have.
void rest() { std::this_thread::sleep_for(std::chrono::microseconds(50)); }

// The harness counts in plain integers, so threads count here and the main thread checks.
struct Tally {
  std::atomic<int64_t> ok{0}, busy{0}, wrong{0};
  void count(const Status& status, unils_status also_fine = UNILS_ERROR_BUSY) {
    if (status.ok()) {
      ++ok;
    } else if (status.code() == UNILS_ERROR_BUSY) {
      ++busy;
    } else if (status.code() != also_fine) {
      ++wrong;
    }
  }
};

// Pushes everything in pieces; what does not fit, or meets a busy track, is offered again.
void push_all(Session& session, unils_track track, const Samples& samples, int rate, int64_t piece, Tally* tally) {
  const auto count = static_cast<int64_t>(samples.size());
  for (int64_t done = 0; done < count;) {
    int64_t taken = 0;
    const Status status = session.push_audio(track, samples.data() + done, UNILS_FLOAT32, std::min(piece, count - done),
                                             rate, &taken);
    tally->count(status);
    done += taken;
    if (taken == 0) rest();
  }
}

Status pull_some(Session& session, Frames* frames, int64_t most = 16) {
  frames->channels = D;
  std::vector<float> values(static_cast<size_t>(most * D));
  std::vector<int64_t> index(static_cast<size_t>(most)), generation(static_cast<size_t>(most));
  std::vector<double> pts(static_cast<size_t>(most));
  const unils_frames out = {values.data(), index.data(), pts.data(), generation.data()};
  int64_t count = 0;
  Status status = session.pull_frames(out, most, &count);
  frames->values.insert(frames->values.end(), values.begin(), values.begin() + count * D);
  frames->index.insert(frames->index.end(), index.begin(), index.begin() + count);
  frames->generation.insert(frames->generation.end(), generation.begin(), generation.begin() + count);
  frames->pts_seconds.insert(frames->pts_seconds.end(), pts.begin(), pts.begin() + count);
  return status;
}

void test_threads_change_no_frame() {
  const Samples self = speech_like(24000 * 15, 1), other = speech_like(48000 * 15, 2);  // more than a ring holds
  auto alone = fake_session(fake_options(UNILS_CLOCK_BOTH, 2, 1));
  const Frames expected = converse(*alone, D, self, 24000, other, 48000);
  auto session = fake_session(fake_options(UNILS_CLOCK_BOTH, 2, 1));
  Tally tally;
  Frames frames;
  std::thread self_pusher([&] { push_all(*session, UNILS_TRACK_SELF, self, 24000, 4801, &tally); });
  std::thread other_pusher([&] { push_all(*session, UNILS_TRACK_OTHER, other, 48000, 960, &tally); });
  while (frames.count() < expected.count() - 3) {
    tally.count(pull_some(*session, &frames));
    rest();
    unils_stats stats = {};
    unils_latency latency = {};
    int64_t ready = 0;
    tally.count(session->get_stats(&stats));
    tally.count(session->get_latency(&latency));
    tally.count(session->frames_ready(&ready));
  }
  self_pusher.join();
  other_pusher.join();
  CHECK_OK(session->finish());
  while (frames.count() < expected.count()) CHECK_OK(pull_some(*session, &frames));
  CHECK(frames == expected);
  CHECK(tally.wrong == 0 && tally.busy == 0);
}

void test_interruptions_beside_a_pusher_lose_nothing_that_was_pushed_after_them() {
  const Samples other = speech_like(16000 * 15, 2), self = speech_like(16000 * 15, 3);
  for (const unils_clock clock : {UNILS_CLOCK_OTHER, UNILS_CLOCK_BOTH}) {
    auto session = fake_session(fake_options(clock, 4, 0));
    Tally tally;
    std::atomic<bool> done{false};
    std::thread self_pusher([&] {
      int64_t at = 0;
      while (!done) {
        int64_t taken = 0;
        const int64_t count = std::min<int64_t>(777, static_cast<int64_t>(self.size()) - at);
        tally.count(session->push_audio(UNILS_TRACK_SELF, self.data() + at, UNILS_FLOAT32, count, 16000, &taken));
        at = (at + taken) % static_cast<int64_t>(self.size());
        rest();
      }
    });
    std::thread other_pusher([&] { push_all(*session, UNILS_TRACK_OTHER, other, 16000, 160, &tally); });
    Frames frames;
    int64_t generation = 0;
    std::vector<char> state(session->snapshot_bytes());
    while (frames.count() < 350) {
      const int64_t before = frames.count();
      tally.count(pull_some(*session, &frames, 3));
      if (frames.count() == before) rest();
      if (frames.count() / 7 > before / 7) tally.count(session->interrupt(&generation));
      if (frames.count() / 50 > before / 50) tally.count(session->snapshot(state.data(), state.size()));
    }
    other_pusher.join();
    done = true;
    self_pusher.join();
    CHECK(tally.wrong == 0 && tally.busy == 0);
    for (int64_t t = 0; t < frames.count(); ++t) {
      const auto i = static_cast<size_t>(t);
      CHECK(frames.index[i] == t && (t == 0 || frames.generation[i] >= frames.generation[i - 1]));
    }
    // Quiet now: what is pushed after an interruption is heard from its first sample on.
    CHECK_OK(session->interrupt(&generation));
    Samples impulse(640 * 30, 0.0f);
    impulse[0] = impulse[300] = 1.0f;
    push(*session, UNILS_TRACK_SELF, impulse);
    const int64_t next = frames.count();
    push(*session, UNILS_TRACK_OTHER, other, 0, 640 * 20);
    pull(*session, &frames, D, 5);
    CHECK(frames.at(next, FakeEngine::kSelfNow) > kSilentLoudness + 0.01f);
    CHECK_NEAR(frames.at(next + 2, FakeEngine::kSelfNow), kSilentLoudness, 1e-4);
  }
}

void test_threads_that_have_no_business_there_are_refused_and_harm_nothing() {
  auto session = fake_session(fake_options());
  const Samples audio = speech_like(16000 * 4, 1);
  Tally pushers, pullers;
  std::atomic<int> running{0};
  std::vector<std::thread> threads;
  for (const unils_track track : {UNILS_TRACK_SELF, UNILS_TRACK_SELF, UNILS_TRACK_OTHER, UNILS_TRACK_OTHER}) {
    ++running;
    threads.emplace_back([&, track] {
      for (int i = 0; i < 400; ++i) {
        int64_t taken = 0;
        // Once the session is finished, pushing is an error of state.
        pushers.count(session->push_audio(track, audio.data(), UNILS_FLOAT32, 2000, 16000, &taken), UNILS_ERROR_STATE);
      }
      --running;
    });
  }
  std::atomic<int64_t> frames_seen{0};
  for (int puller = 0; puller < 3; ++puller) {
    threads.emplace_back([&, puller] {
      Frames frames;
      std::vector<char> state(session->snapshot_bytes());
      for (int i = 0; running > 0 || i < 50; ++i) {
        pullers.count(pull_some(*session, &frames));
        int64_t generation = 0;
        unils_stats stats = {};
        if (i % 7 == puller) pullers.count(session->interrupt(&generation));
        if (i % 5 == 0) pullers.count(session->get_stats(&stats));
        if (i % 31 == 0) pullers.count(session->snapshot(state.data(), state.size()));
        if (i % 97 == 96) pullers.count(session->reset());
        if (i % 61 == 60) pullers.count(session->finish());
      }
      frames_seen += frames.count();
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(pushers.wrong == 0 && pullers.wrong == 0);
  CHECK(pushers.ok > 0 && pullers.ok > 0);
  std::printf("pushes: %lld taken part in, %lld busy; other calls: %lld, %lld busy; %lld frames\n",
              static_cast<long long>(pushers.ok), static_cast<long long>(pushers.busy),
              static_cast<long long>(pullers.ok), static_cast<long long>(pullers.busy),
              static_cast<long long>(frames_seen.load()));
  CHECK_OK(session->reset());
  const Frames frames = converse(*session, D, audio, 16000, audio, 16000);
  auto fresh = fake_session(fake_options());
  CHECK(frames == converse(*fresh, D, audio, 16000, audio, 16000));
}

void test_sessions_of_one_model_run_side_by_side() {
  const TemporaryFolder folder("unils_threads");
  BundleWriter().write(folder / "bundle");
  unils_model* model = nullptr;
  CHECK(unils_model_load((folder / "bundle").c_str(), nullptr, &model) == UNILS_OK);
  const Samples audio = speech_like(16000 * 3, 1);
  constexpr int kSessions = 4;
  std::vector<std::vector<float>> results(kSessions);
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kSessions; ++i) {
    threads.emplace_back([&, i] {
      unils_session* session = nullptr;
      int64_t taken = 0, count = 0;
      std::vector<float>& values = results[static_cast<size_t>(i)];
      values.resize(75 * 55);
      const unils_frames out = {values.data(), nullptr, nullptr, nullptr};
      if (unils_session_create(model, nullptr, &session) != UNILS_OK) ++failures;
      for (const unils_track track : {UNILS_TRACK_SELF, UNILS_TRACK_OTHER}) {
        if (unils_session_push_audio(session, track, audio.data(), UNILS_FLOAT32, 48000, 16000, &taken) != UNILS_OK)
          ++failures;
      }
      if (unils_session_finish(session) != UNILS_OK) ++failures;
      if (unils_session_pull_frames(session, &out, 75, &count) != UNILS_OK || count != 75) ++failures;
      unils_session_free(session);
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(failures == 0);
  for (const auto& values : results) CHECK(values == results[0]);
  unils_model_free(model);
}

}  // namespace

int main() {
  test_threads_change_no_frame();
  test_interruptions_beside_a_pusher_lose_nothing_that_was_pushed_after_them();
  test_threads_that_have_no_business_there_are_refused_and_harm_nothing();
  test_sessions_of_one_model_run_side_by_side();
  return check::result();
}
