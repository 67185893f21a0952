// EngineDriver: a model on disk, an engine on it and a session's blocks, for tests of the step engine.
#pragma once
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "core/arena.h"
#include "core/cpu.h"
#include "engine/state_layout.h"
#include "engine/step_engine.h"
#include "model/model.h"

namespace unils {

constexpr Track kTracks[] = {Track::kSelf, Track::kOther};

// Log-mel rows that anyone can compute at any index, of a size as speech has it.
inline std::vector<float> made_up_row(Track track, int64_t row, int count = 256) {
  std::mt19937 random(static_cast<unsigned>(row * 2 + static_cast<int>(track) + 1));
  std::normal_distribution<float> normal(-4.0f, 3.0f);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

class EngineDriver {
 public:
  explicit EngineDriver(const std::string& bundle) : EngineDriver(load(bundle, 1)) {}
  explicit EngineDriver(std::shared_ptr<const Model> shared) : model(std::move(shared)) {
    CHECK_OK(StepEngine::create(model, &engine));
    CHECK_OK(Arena::create(engine->counts_bytes(), &counts_));
    CHECK_OK(engine->create_states(1, &states_));
    CHECK_OK(engine->create_workspace(1, &workspace));
    state = {counts_.data(), states_->block(0)};
    CHECK_OK(engine->reset(state));
  }

  Status push(Track track) {
    const std::vector<float> row = made_up_row(track, engine->rows(state, track), engine->row_values());
    return engine->push_row(state, *workspace, track, row.data());
  }
  static std::shared_ptr<const Model> load(const std::string& bundle, int threads) {
    std::shared_ptr<const Model> loaded;
    CHECK_OK(Model::load(bundle.c_str(), "cpu", threads, &loaded));
    return loaded;
  }
  // Pushes what the next frame needs.
  void push_needed(const StepParams& params) {
    const int64_t needed[] = {frame() + 1 + params.look_ahead_self, frame() + 1 + params.look_ahead_other};
    for (const Track track : kTracks) {
      while (rows(track) < needed[static_cast<int>(track)]) CHECK_OK(push(track));
    }
  }
  // Pushes what the next frame needs and makes it; motion (D).
  std::vector<float> step(const StepParams& params) {
    push_needed(params);
    std::vector<float> motion(static_cast<size_t>(engine->channels()));
    CHECK_OK(engine->step(state, *workspace, params, motion.data()));
    return motion;
  }
  // Bits of the last frame made, +-1.
  std::vector<double> bits() const {
    const unils_stream_sizes& sizes = model->config().sizes;
    const float* at = arena_at<float>(state.block, layout().bits);
    return std::vector<double>(at, at + sizes.levels * sizes.bits);
  }
  StateLayout layout() const { return StateLayout(model->config().sizes, model->config().features()); }
  // All that a session's past has left.
  std::vector<char> bytes() const {
    std::vector<char> copy(engine->counts_bytes() + engine->block_bytes());
    std::memcpy(copy.data(), state.counts, engine->counts_bytes());
    CHECK_OK(engine->read_block(state.block, copy.data() + engine->counts_bytes()));
    return copy;
  }
  void load(const std::vector<char>& copy) {
    std::memcpy(state.counts, copy.data(), engine->counts_bytes());
    CHECK_OK(engine->write_block(state.block, copy.data() + engine->counts_bytes()));
  }
  int64_t frame() const { return engine->frame(state); }
  int64_t rows(Track track) const { return engine->rows(state, track); }

  std::shared_ptr<const Model> model;
  std::shared_ptr<const StepEngine> engine;
  StepState state;
  std::unique_ptr<StepWorkspace> workspace;

 private:
  Arena counts_;
  std::unique_ptr<StepStates> states_;
};

// Pins each level that runs here in turn.
template <typename Test>
void at_every_level(const Test& test) {
  for (const CpuLevel level : {CpuLevel::kRef, CpuLevel::kNeon, CpuLevel::kAvx2, CpuLevel::kAvx512}) {
    if (!cpu_supports(level)) continue;
    setenv("UNILS_CPU", cpu_level_name(level), 1);
    test();
  }
  unsetenv("UNILS_CPU");
}

}  // namespace unils
