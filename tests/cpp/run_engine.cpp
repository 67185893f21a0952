// Runs a bundle over given log-mel rows and writes down everything that it made, for tests/test_native_parity.py.
//
//   run_engine BUNDLE INPUT OUTPUT frames look_ahead_self look_ahead_other temperature top_p cfg_scale seed
//   style_frames
//
// INPUT, float32: rows of self (frames + look_ahead_self, 256), rows of other alike, style (style_frames, D).
// OUTPUT, float32: motion (frames, D), logits (frames, L*d), bits (frames, L*d) of +-1, then for each track the keys
// and values of its rows as cross-attention sees them (rows, depth, 2, W).
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "core/arena.h"
#include "engine/state_layout.h"
#include "engine/step_engine.h"
#include "model/model.h"

using namespace unils;

namespace {

void require(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.sentence().c_str());
  std::exit(1);
}

// Key and value of one position of a ring, all heads side by side.
void append_entry(const KvRing& ring, const void* state, const unils_stream_sizes& sizes, int layer, int64_t position,
                  std::vector<float>* out) {
  const int head_width = sizes.width / sizes.heads;
  const int64_t capacity = ring.index().capacity(), slot = ring.index().slot(position);
  const auto stride = static_cast<int64_t>(round_up(static_cast<size_t>(head_width), KvRing::kBlock));
  for (int head = 0; head < sizes.heads; ++head) {
    for (int d = 0; d < head_width; ++d) out->push_back(ring.keys(state, layer, head)[d * capacity + slot]);
  }
  for (int head = 0; head < sizes.heads; ++head) {
    for (int d = 0; d < head_width; ++d) out->push_back(ring.values(state, layer, head)[slot * stride + d]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 12) {
    std::fprintf(stderr, "see the first lines of run_engine.cpp\n");
    return 2;
  }
  const int64_t frames = std::atoll(argv[4]), style_frames = std::atoll(argv[11]);
  StepParams params;
  params.look_ahead_self = std::atoi(argv[5]);
  params.look_ahead_other = std::atoi(argv[6]);
  params.temperature = std::strtof(argv[7], nullptr);
  params.top_p = std::strtof(argv[8], nullptr);
  params.cfg_scale = std::strtof(argv[9], nullptr);
  params.seed = std::strtoull(argv[10], nullptr, 10);

  std::shared_ptr<const Model> model;
  require(Model::load(argv[1], "cpu", 1, &model));
  std::shared_ptr<const StepEngine> engine;
  require(StepEngine::create(model, &engine));
  const unils_stream_sizes& sizes = model->config().sizes;
  const StateLayout layout(sizes, model->config().features());
  Arena counts;
  std::unique_ptr<StepStates> states;
  std::unique_ptr<StepWorkspace> workspace;
  require(Arena::create(engine->counts_bytes(), &counts));
  require(engine->create_states(1, &states));
  require(engine->create_workspace(1, &workspace));
  const StepState state = {counts.data(), states->block(0)};

  const int64_t look_ahead[] = {params.look_ahead_self, params.look_ahead_other};
  const int64_t rows[] = {frames + look_ahead[0], frames + look_ahead[1]};
  const auto count = static_cast<size_t>((rows[0] + rows[1]) * sizes.row_values + style_frames * sizes.channels);
  std::vector<float> input(count);
  std::ifstream in(argv[2], std::ios::binary);
  if (!in.read(reinterpret_cast<char*>(input.data()), static_cast<std::streamsize>(count * sizeof(float)))) {
    std::fprintf(stderr, "%s holds fewer than %zu values\n", argv[2], count);
    return 1;
  }
  const float* log_mel[] = {input.data(), input.data() + rows[0] * sizes.row_values};
  const float* style = log_mel[1] + rows[1] * sizes.row_values;

  const auto level_bits = static_cast<size_t>(sizes.levels) * static_cast<size_t>(sizes.bits);
  const auto channels = static_cast<size_t>(sizes.channels);
  std::vector<float> motion(static_cast<size_t>(frames) * channels), logits(static_cast<size_t>(frames) * level_bits),
      bits;
  std::vector<float> heard[2];
  require(engine->reset(state));
  if (style_frames > 0) require(engine->set_style(state, *workspace, style, style_frames));
  for (int64_t frame = 0; frame < frames; ++frame) {
    for (const Track track : {Track::kSelf, Track::kOther}) {
      const int t = static_cast<int>(track);
      for (int64_t row = engine->rows(state, track); row < frame + 1 + look_ahead[t]; ++row) {
        require(engine->push_row(state, *workspace, track, log_mel[t] + row * sizes.row_values));
      }
    }
    params.logits = logits.data() + static_cast<size_t>(frame) * level_bits;
    require(
        engine->step(state, *workspace, params, motion.data() + static_cast<size_t>(frame) * channels));
    for (int t = 0; t < 2; ++t) {
      for (int64_t row = frame == 0 ? 0 : frame + look_ahead[t]; row <= frame + look_ahead[t]; ++row) {
        for (int layer = 0; layer < sizes.depth; ++layer) {
          append_entry(layout.cross[t], state.block, sizes, layer, row, &heard[t]);
        }
      }
    }
    const float* made = arena_at<float>(state.block, layout.bits);
    bits.insert(bits.end(), made, made + level_bits);
  }

  std::ofstream out(argv[3], std::ios::binary);
  for (const std::vector<float>* part : {&motion, &logits, &bits, &heard[0], &heard[1]}) {
    out.write(reinterpret_cast<const char*>(part->data()), static_cast<std::streamsize>(part->size() * sizeof(float)));
  }
  return out.good() ? 0 : 1;
}
