// FakeEngine: a StepEngine whose motion is a plain function of the rows that a frame may see, so that tests of the
// session can tell from a frame which audio was heard. It enforces the contract of step_engine.h.
#pragma once
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/ring.h"
#include "engine/step_engine.h"
#include "features/framer.h"
#include "session/session.h"

namespace unils {

class FakeEngine : public StepEngine {
 public:
  static constexpr int kRowValues = 256;
  static constexpr int kWindow = 24;  // rows of the past that a frame sees
  // What the channels are.
  enum Channel : int {
    kSelfSeen,    // every row of self that the frame sees, weighted
    kOtherSeen,
    kSelfNow,     // loudness of self in the frame's own hop
    kOtherNow,
    kSelfNewest,  // loudness of the newest row seen, look-ahead included
    kOtherNewest,
    kIndex,       // frame % 1000
    kStyle,       // sum of the style clip
    kChannels
  };

  struct State {
    int64_t frame;
    int64_t rows[2];
    int64_t furthest[2];
    float style;
    float seen[2][64];  // by row: a weighted sum of its values
    float loud[2][64];  // by row: mean log energy
    float history[2][Framer::kKeptRows * 240];
  };

  int64_t fail_at = -1;  // step() of this frame fails

  struct NoStates final : StepStates {
    void* block(int) const override { return nullptr; }
  };
  struct Workspace final : StepWorkspace {
    explicit Workspace(const Framer& framer) : line(framer.scratch_floats()), scratch(framer.scratch_doubles()) {}
    int64_t bytes() const override { return static_cast<int64_t>(line.size() * 4 + scratch.size() * 8); }
    std::vector<float> line;
    std::vector<double> scratch;
  };

  size_t counts_bytes() const override { return round_up(sizeof(State), kCacheLine); }
  size_t block_bytes() const override { return 0; }
  int hop_samples() const override { return 640; }
  int row_values() const override { return kRowValues; }
  int channels() const override { return kChannels; }

  Status create_states(int, std::unique_ptr<StepStates>* states) const override {
    *states = std::make_unique<NoStates>();
    return Status();
  }
  Status create_workspace(int, std::unique_ptr<StepWorkspace>* workspace) const override {
    *workspace = std::make_unique<Workspace>(framer_);
    return Status();
  }
  Status read_block(const void*, void*) const override { return Status(); }
  Status write_block(void*, const void*) const override { return Status(); }

  Status reset(StepState state) const override {
    std::memset(state.counts, 0, counts_bytes());
    return Status();
  }
  Status set_style(StepState state, StepWorkspace&, const float* motion, int64_t frames) const override {
    float sum = 0.0f;
    for (int64_t i = 0; i < frames * kChannels; ++i) sum += motion[i];
    at(state)->style = sum;
    return Status();
  }
  int64_t frame(StepState state) const override { return at(state)->frame; }
  int64_t rows(StepState state, Track track) const override { return at(state)->rows[static_cast<int>(track)]; }
  Status push_hop(StepState state, StepWorkspace& workspace, Track track, const float* hop) const override {
    auto& work = static_cast<Workspace&>(workspace);
    float row[kRowValues];
    framer_.row(at(state)->history[static_cast<int>(track)], work.line.data(), work.scratch.data(), rows(state, track),
                hop, row);
    return push_row(state, workspace, track, row);
  }
  Status push_row(StepState state, StepWorkspace&, Track track, const float* log_mel) const override {
    State& s = *at(state);
    const int t = static_cast<int>(track);
    const auto slot = static_cast<size_t>(kRows.slot(s.rows[t]));
    float seen = 0.0f, loud = 0.0f;
    for (int i = 0; i < kRowValues; ++i) {
      seen += log_mel[i] * static_cast<float>(1 + i % 7);
      loud += log_mel[i];
    }
    s.seen[t][slot] = seen / kRowValues;
    s.loud[t][slot] = loud / kRowValues;
    ++s.rows[t];
    s.furthest[t] = std::max(s.furthest[t], s.rows[t]);
    return Status();
  }
  Status rewind_rows(StepState state, Track track, int64_t row) const override {
    State& s = *at(state);
    const int t = static_cast<int>(track);
    if (row > s.rows[t] || row < s.frame || s.furthest[t] - row > kMaxRewindRows) {
      return error(UNILS_ERROR_INTERNAL, "rewind from %lld to %lld", static_cast<long long>(s.rows[t]),
                   static_cast<long long>(row));
    }
    s.rows[t] = row;
    return Status();
  }
  void step_batch(StepRequest* requests, int count, StepWorkspace&) const override {
    for (int i = 0; i < count; ++i) requests[i].status = make(requests[i].state, *requests[i].params, requests[i].motion);
  }

 private:
  Status make(StepState state, const StepParams& params, float* motion) const {
    State& s = *at(state);
    if (s.frame == fail_at) return Status(UNILS_ERROR_BACKEND, "told to fail");
    const int look_ahead[2] = {params.look_ahead_self, params.look_ahead_other};
    for (int t = 0; t < 2; ++t) {
      if (s.rows[t] != s.frame + 1 + look_ahead[t]) {
        return error(UNILS_ERROR_INTERNAL, "frame %lld of track %d has %lld rows", static_cast<long long>(s.frame), t,
                     static_cast<long long>(s.rows[t]));
      }
      float seen = 0.0f;
      for (int64_t row = std::max<int64_t>(0, s.frame - kWindow); row < s.rows[t]; ++row) {
        seen = 0.9f * seen + s.seen[t][static_cast<size_t>(kRows.slot(row))];
      }
      motion[kSelfSeen + t] = seen;
      motion[kSelfNow + t] = s.loud[t][static_cast<size_t>(kRows.slot(s.frame))];
      motion[kSelfNewest + t] = s.loud[t][static_cast<size_t>(kRows.slot(s.rows[t] - 1))];
    }
    motion[kIndex] = static_cast<float>(s.frame % 1000);
    motion[kStyle] = s.style;
    ++s.frame;
    return Status();
  }

  static constexpr RingIndex kRows{64};
  static State* at(StepState state) { return static_cast<State*>(state.counts); }

  Framer framer_{LogMelConfig(), 640};
};

// A session over a FakeEngine. Loudness of silence is ln(1e-5).
constexpr float kSilentLoudness = -11.512925f;

inline unils_session_options fake_options(unils_clock clock = UNILS_CLOCK_BOTH, int look_ahead_self = 0,
                                          int look_ahead_other = 0) {
  unils_session_options options = {};
  options.struct_size = sizeof options;
  options.clock = clock;
  options.look_ahead_self = look_ahead_self;
  options.look_ahead_other = look_ahead_other;
  options.temperature = 1.0f;
  options.top_p = 0.97f;
  options.cfg_scale = 1.5f;
  options.faces = 1;
  return options;
}

inline SessionSpec fake_spec(std::unique_ptr<FakeEngine> engine = std::make_unique<FakeEngine>()) {
  SessionSpec spec;
  spec.engine = std::move(engine);
  spec.rig = "flame";
  for (int i = 0; i < FakeEngine::kChannels; ++i) spec.channels.push_back("c" + std::to_string(i));
  spec.look_ahead_self_max = 8;
  spec.look_ahead_other_max = 8;
  spec.fingerprint = 0x1234;
  return spec;
}

inline std::unique_ptr<Session> fake_session(const unils_session_options& options,
                                             std::unique_ptr<FakeEngine> engine = std::make_unique<FakeEngine>()) {
  std::unique_ptr<Session> session;
  const Status status = Session::create(fake_spec(std::move(engine)), options, &session);
  if (!status.ok()) std::fprintf(stderr, "fake_session: %s\n", status.sentence().c_str());
  return session;
}

}  // namespace unils
