// Snapshots: bitwise, of any moment, refused when they are not whole or not ours; and counters far beyond 2^31.
#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "conversation.h"
#include "fake_engine.h"
#include "session/session.h"
#include "session/snapshot.h"

namespace {

using namespace unils;

constexpr int D = FakeEngine::kChannels;
using Bytes = std::vector<char>;

Bytes snapshot(Session& session) {
  Bytes bytes(session.snapshot_bytes());
  CHECK_OK(session.snapshot(bytes.data(), bytes.size()));
  return bytes;
}

// Changes the counters and the engine's state of a snapshot, as nothing but a test should, and signs it again.
void edit(Bytes* bytes, const std::function<void(SessionCounters*, FakeEngine::State*)>& change) {
  SnapshotHeader header;
  SessionCounters counters;
  FakeEngine::State engine;
  char* body = bytes->data() + sizeof header;
  char* engine_at = bytes->data() + bytes->size() - FakeEngine().counts_bytes();
  std::memcpy(&header, bytes->data(), sizeof header);
  std::memcpy(&counters, body, sizeof counters);
  std::memcpy(&engine, engine_at, sizeof engine);
  change(&counters, &engine);
  std::memcpy(body, &counters, sizeof counters);
  std::memcpy(engine_at, &engine, sizeof engine);
  Checksum checksum;
  checksum.add(body, bytes->size() - sizeof header);
  header.checksum = checksum.value();
  std::memcpy(bytes->data(), &header, sizeof header);
}

struct Conversation {
  Samples self, other;
  int self_rate, other_rate;
  int64_t done[2] = {0, 0};
};

// `pieces` random pushes, pulls and, now and then, an interruption.
void go_on(Session& session, Conversation* talk, int pieces, uint32_t seed, Frames* frames) {
  std::mt19937 random(seed);
  const auto up_to = [&random](int64_t most) { return std::uniform_int_distribution<int64_t>(0, most)(random); };
  for (int i = 0; i < pieces; ++i) {
    const auto track = static_cast<unils_track>(up_to(1));
    const Samples& samples = track == UNILS_TRACK_SELF ? talk->self : talk->other;
    const int64_t left = static_cast<int64_t>(samples.size()) - talk->done[track];
    talk->done[track] += push(session, track, samples, talk->done[track], std::min(up_to(4000), left),
                              track == UNILS_TRACK_SELF ? talk->self_rate : talk->other_rate);
    if (up_to(2) == 0) pull(session, frames, D, up_to(4));
    int64_t generation = 0;
    if (up_to(40) == 0) CHECK_OK(session.interrupt(&generation));
  }
}

void test_a_restored_session_goes_on_bit_by_bit() {
  const int rates[][2] = {{16000, 16000}, {24000, 48000}, {44100, 8000}};
  uint32_t seed = 0;
  for (const auto clock : {UNILS_CLOCK_BOTH, UNILS_CLOCK_OTHER}) {
    for (const auto& rate : rates) {
      for (int trial = 0; trial < 6; ++trial) {
        ++seed;
        Conversation talk = {speech_like(rate[0] * 8, seed), speech_like(rate[1] * 8, seed + 99), rate[0], rate[1]};
        auto session = fake_session(fake_options(clock, trial, 1));
        Frames before;
        go_on(*session, &talk, trial * 15, seed, &before);
        if (trial == 5) CHECK_OK(session->finish());
        const Bytes bytes = snapshot(*session);
        CHECK(snapshot(*session) == bytes);
        auto other_session = fake_session(fake_options(clock, trial, 1));
        Frames dirt;
        push(*other_session, UNILS_TRACK_SELF, talk.self, 8000 + static_cast<int>(seed));
        CHECK_OK(other_session->restore(bytes.data(), bytes.size()));
        CHECK(snapshot(*other_session) == bytes);

        Frames expected, restored, again;
        const Conversation at_snapshot = talk;
        const int more = trial == 5 ? 0 : 60;
        const auto end = [&](Session& s, Conversation from, Frames* frames) {
          go_on(s, &from, more, seed + 1, frames);
          CHECK_OK(s.finish());
          pull(s, frames, D);
          return snapshot(s);
        };
        const Bytes last = end(*session, at_snapshot, &expected);
        CHECK(end(*other_session, at_snapshot, &restored) == last);
        CHECK(restored == expected && expected.count() > 0);
        CHECK_OK(session->restore(bytes.data(), bytes.size()));
        CHECK(end(*session, at_snapshot, &again) == last);
        CHECK(again == expected);
      }
    }
  }
}

void test_snapshots_do_not_depend_on_how_audio_was_cut() {
  const Samples audio = speech_like(30000, 1);
  auto whole = fake_session(fake_options()), pieces = fake_session(fake_options());
  push(*whole, UNILS_TRACK_OTHER, audio, 44100);
  for (int64_t at = 0; at < 30000; at += 100) push(*pieces, UNILS_TRACK_OTHER, audio, at, 100, 44100);
  CHECK(snapshot(*whole) == snapshot(*pieces));
}

void test_snapshots_that_are_not_whole_or_not_ours_are_refused_and_the_session_is_untouched() {
  auto session = fake_session(fake_options(UNILS_CLOCK_BOTH, 2, 1));
  const Samples audio = speech_like(16000, 1);
  push(*session, UNILS_TRACK_SELF, audio);
  push(*session, UNILS_TRACK_OTHER, audio, 48000);
  Frames frames;
  pull(*session, &frames, D, 3);
  const Bytes good = snapshot(*session);
  const auto refused = [&](const Bytes& bytes, const char* text) {
    CHECK_ERROR(session->restore(bytes.data(), bytes.size()), UNILS_ERROR_INVALID_ARGUMENT, text);
    CHECK(snapshot(*session) == good);
  };
  refused(Bytes(good.begin(), good.begin() + 10), "too few");
  refused(Bytes(good.begin(), good.end() - 1), "bytes");
  refused(Bytes(good.begin(), good.begin() + 100), "bytes");
  Bytes longer = good;
  longer.push_back(0);
  refused(longer, "bytes");
  refused(Bytes(good.size(), 0), "not a snapshot");
  for (const size_t at : {sizeof(SnapshotHeader), sizeof(SnapshotHeader) + 5000, good.size() / 2, good.size() - 1}) {
    Bytes flipped = good;
    flipped[at] = static_cast<char>(flipped[at] ^ 4);
    refused(flipped, "damaged");
  }
  CHECK_ERROR(session->restore(nullptr, good.size()), UNILS_ERROR_INVALID_ARGUMENT, "too few");
  Bytes small(good.size() - 1);
  CHECK_ERROR(session->snapshot(small.data(), small.size()), UNILS_ERROR_INVALID_ARGUMENT, "needs a buffer");
  CHECK_ERROR(session->snapshot(nullptr, good.size()), UNILS_ERROR_INVALID_ARGUMENT, "needs a buffer");

  const auto from = [](auto change) {
    auto options = fake_options(UNILS_CLOCK_BOTH, 2, 1);
    change(options);
    return snapshot(*fake_session(options));
  };
  static const float style[25 * D] = {1.0f};
  refused(from([](auto& o) { o.clock = UNILS_CLOCK_OTHER; }), "other options");
  refused(from([](auto& o) { o.look_ahead_self = 3; }), "other options");
  refused(from([](auto& o) { o.temperature = 0.5f; }), "other options");
  refused(from([](auto& o) { o.seed = 1; }), "other options");
  refused(from([](auto& o) { o.style = style, o.style_frames = 25; }), "other options");
  SessionSpec spec = fake_spec();
  spec.fingerprint = 77;
  std::unique_ptr<Session> foreign;
  CHECK_OK(Session::create(std::move(spec), fake_options(UNILS_CLOCK_BOTH, 2, 1), &foreign));
  refused(snapshot(*foreign), "another model");
}

void test_counters_that_no_session_can_have_are_refused() {
  auto session = fake_session(fake_options(UNILS_CLOCK_BOTH, 2, 1));
  const Samples audio = speech_like(16000, 1);
  push(*session, UNILS_TRACK_SELF, audio);
  push(*session, UNILS_TRACK_OTHER, audio, 48000);
  Frames frames;
  pull(*session, &frames, D, 3);
  const Bytes good = snapshot(*session);
  int refused = 0;
  const auto hostile = [&](const std::function<void(SessionCounters*, FakeEngine::State*)>& change) {
    Bytes bytes = good;
    edit(&bytes, change);
    const Status status = session->restore(bytes.data(), bytes.size());
    if (!CHECK(status.code() == UNILS_ERROR_INVALID_ARGUMENT)) std::fprintf(stderr, "  case %d was taken\n", refused);
    ++refused;
    CHECK_OK(session->restore(good.data(), good.size()));
  };
  for (const int64_t bad :
       {int64_t{-1}, int64_t{1} << 50, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()}) {
    hostile([bad](auto* c, auto*) { c->inputs[0].read = bad; });
    hostile([bad](auto* c, auto*) { c->inputs[1].written = bad; });
    hostile([bad](auto* c, auto*) { c->inputs[0].refused = bad; });
    hostile([bad](auto* c, auto*) { c->inputs[1].resampler.rate = bad; });
    hostile([bad](auto* c, auto*) { c->inputs[1].resampler.consumed = bad; });
    hostile([bad](auto* c, auto*) { c->inputs[1].resampler.produced = bad; });
    hostile([bad](auto* c, auto*) { c->inputs[0].finished = bad; });
    hostile([bad](auto* c, auto*) { c->lines[0].front = bad; });
    hostile([bad](auto* c, auto*) { c->lines[1].heard = bad; });
    hostile([bad](auto* c, auto*) { c->queue.first = bad; });
    hostile([bad](auto* c, auto*) { c->queue.end = bad; });
    hostile([bad](auto*, auto* e) { e->frame = bad; });
    hostile([bad](auto*, auto* e) { e->rows[0] = bad; });
  }
  hostile([](auto* c, auto*) { c->generation = -1; });
  hostile([](auto* c, auto*) { c->inputs[0].written = c->inputs[0].read + AudioRing::kCapacity + 1; });
  hostile([](auto* c, auto*) { c->inputs[0].resampler.history[0] = std::nanf(""); });
  hostile([](auto* c, auto*) { c->inputs[0].resampler.rate = 0; });
  hostile([](auto* c, auto*) { c->inputs[1].resampler.produced -= 1; });
  hostile([](auto* c, auto*) { c->inputs[1].resampler.produced += 100; });
  hostile([](auto* c, auto*) { c->lines[0].heard += 10 * 640; });
  hostile([](auto* c, auto*) { c->queue.end += 1; });
  hostile([](auto*, auto* e) { e->rows[1] -= 2; });
  CHECK(refused == 4 * 13 + 9);
  CHECK(pull(*session, &frames, D) > 0);
}

void test_nothing_jumps_where_32_bit_counters_would() {
  // Shifts of a whole number of every ring, to just before 2^31 samples at 16 kHz and, for the last, at 48 kHz.
  for (const int rate : {44100, 48000}) {
    for (const int64_t shifts : {1638, 546}) {
      if (shifts == 546 && rate != 48000) continue;
      const int64_t shift = shifts * 2048;  // frames; 2048 hops are eight rings
      const Samples self = speech_like(16000 * 45, 1), other = speech_like(int64_t{rate} * 45, 2);
      auto near = fake_session(fake_options(UNILS_CLOCK_BOTH, 3, 0)),
           far = fake_session(fake_options(UNILS_CLOCK_BOTH, 3, 0));
      Frames dropped, expected, frames;
      push(*near, UNILS_TRACK_SELF, self, 0, 5000);
      push(*near, UNILS_TRACK_OTHER, other, 0, 7000, rate);
      pull(*near, &dropped, D);
      Bytes bytes = snapshot(*near);
      edit(&bytes, [&](SessionCounters* c, FakeEngine::State* e) {
        for (int track = 0; track < 2; ++track) {
          Resampler::State& resampler = c->inputs[track].resampler;
          resampler.consumed += shift * (resampler.rate / 25);
          resampler.produced += shift * 640;
          c->inputs[track].read += shift * 640;
          c->inputs[track].written += shift * 640;
          c->lines[track].front += shift * 640;
          c->lines[track].heard += shift * 640;
          e->rows[track] += shift;
          e->furthest[track] += shift;
        }
        c->queue.first += shift;
        c->queue.end += shift;
        e->frame += shift;
      });
      CHECK_OK(far->restore(bytes.data(), bytes.size()));
      const auto go = [&](Session& session, Frames* out) {
        int64_t s = 5000, o = 7000, generation = 0;
        while (s < static_cast<int64_t>(self.size()) || o < static_cast<int64_t>(other.size())) {
          s +=
              push(session, UNILS_TRACK_SELF, self, s, std::min<int64_t>(16000, static_cast<int64_t>(self.size()) - s));
          o += push(session, UNILS_TRACK_OTHER, other, o,
                    std::min<int64_t>(rate, static_cast<int64_t>(other.size()) - o), rate);
          pull(session, out, D);
          if (s == 16000 * 20 + 5000) CHECK_OK(session.interrupt(&generation));
        }
        CHECK_OK(session.finish());
        pull(session, out, D);
      };
      go(*near, &expected);
      go(*far, &frames);
      CHECK(expected.count() > 1000 && frames.count() == expected.count());
      const int64_t last_sample = (frames.index.back() + 1) * 640;
      CHECK(shifts != 1638 || (frames.index.front() * 640 < int64_t{1} << 31 && last_sample > int64_t{1} << 31));
      for (int64_t t = 0; t < frames.count(); ++t) {
        const auto i = static_cast<size_t>(t);
        CHECK(frames.index[i] == expected.index[i] + shift && frames.generation[i] == expected.generation[i]);
        CHECK(frames.pts_seconds[i] == static_cast<double>(expected.index[i] + shift) / 25.0);
        for (int c = 0; c < D; ++c) {
          if (c != FakeEngine::kIndex) CHECK(frames.at(t, c) == expected.at(t, c));
        }
      }
    }
  }
}

}  // namespace

int main() {
  test_a_restored_session_goes_on_bit_by_bit();
  test_snapshots_do_not_depend_on_how_audio_was_cut();
  test_snapshots_that_are_not_whole_or_not_ours_are_refused_and_the_session_is_untouched();
  test_counters_that_no_session_can_have_are_refused();
  test_nothing_jumps_where_32_bit_counters_would();
  return check::result();
}
