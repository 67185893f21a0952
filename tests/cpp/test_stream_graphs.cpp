// The backend of ONNX graphs over a runner that counts, and thresholds that stand for the sampler.
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "bundle_writer.h"
#include "check.h"
#include "engine/sampler.h"
#include "engine_driver.h"
#include "graph_bundle.h"
#include "model/model.h"

using namespace unils;

namespace {

std::string bundle_path;  // of tiny_sizes(), with graphs

std::shared_ptr<const Model> load(const CountingRunner& runner, int threads = 1) {
  std::shared_ptr<const Model> model;
  CHECK_OK(Model::load(bundle_path.c_str(), "onnxruntime", threads, &model, &runner.table));
  return model;
}

StepParams guided(float cfg_scale = 1.5f) {
  StepParams params;
  params.look_ahead_self = 1, params.look_ahead_other = 0;
  params.temperature = 1.0f, params.top_p = 0.97f, params.cfg_scale = cfg_scale, params.seed = 7;
  return params;
}

void test_a_logit_above_its_threshold_is_what_the_sampler_draws_as_one() {
  constexpr int kLevels = 4, kBits = 24, kCount = kLevels * kBits, kDraws = 1000000;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float temperatures[] = {1.0f, 0.7f, 0.0f, 1e-3f, 3.0f, 50.0f, 1e-40f, 1e38f};
  const float top_ps[] = {0.97f, 1.0f, 0.9f, 0.6f, 0.5f, 0.3f, 1e-6f};
  std::mt19937_64 random(5);
  std::normal_distribution<float> normal;
  float thresholds[kCount], logits[kCount], drawn[kCount];
  int64_t wrong = 0, ones = 0, draws = 0;
  const auto compare = [&](float temperature, float top_p, uint64_t seed, int64_t frame) {
    for (int level = 0; level < kLevels; ++level) {
      sample_bits(logits + level * kBits, kBits, temperature, top_p, seed, frame, level, drawn + level * kBits);
    }
    for (int i = 0; i < kCount; ++i) {
      wrong += (logits[i] > thresholds[i]) != (drawn[i] > 0.0f);
      ones += drawn[i] > 0.0f;
    }
    draws += kCount;
  };
  for (int call = 0; draws < kDraws; ++call) {
    const float temperature = temperatures[call % 8], top_p = top_ps[call / 8 % 7];
    const uint64_t seed = random();
    const auto frame = static_cast<int64_t>(random() >> 1);
    bit_thresholds(kLevels, kBits, temperature, top_p, seed, frame, thresholds);
    for (float& logit : logits) logit = 3.0f * std::max(temperature, 0.1f) * normal(random);
    compare(temperature, top_p, seed, frame);
    // And at the very edge.
    std::copy(thresholds, thresholds + kCount, logits);
    compare(temperature, top_p, seed, frame);
    for (float& logit : logits) logit = std::nextafter(logit, kInfinity);
    compare(temperature, top_p, seed, frame);
  }
  if (!CHECK(wrong == 0)) std::fprintf(stderr, "  %lld of %lld\n", static_cast<long long>(wrong), static_cast<long long>(draws));
  CHECK(ones > draws / 4 && ones < 3 * draws / 4);
}

void test_rings_are_bound_where_they_lie_in_a_state_block() {
  CountingRunner runner;
  EngineDriver driver(load(runner));
  const StateLayout layout = driver.layout();
  void* block = driver.state.block;
  driver.step(guided());
  const CountingRunner::Call& step = runner.last[1];
  CHECK(step.input("bits") == arena_at<float>(block, layout.bits));
  CHECK(step.input("style_ring") == layout.style.keys(block, 0, 0));
  CHECK(step.input("past_rings") == layout.self[0].keys(block, 0, 0));
  CHECK(step.input("past_rings") + layout.self[0].floats() == layout.self[1].keys(block, 0, 0));
  CHECK(step.input("audio_self_ring") == layout.cross[0].keys(block, 0, 0));
  CHECK(step.input("audio_other_ring") == layout.cross[1].keys(block, 0, 0));
  CHECK(runner.last[2].input("history") == layout.decoder.row(block, 0, 0));
  CHECK(runner.runs[0] == 3 && *runner.last[0].input<int64_t>("track") == 1);
  CHECK(runner.last[0].input("history") == layout.audio[1].row(block, 0, 0));
  CHECK(runner.shapes_fit);
}

void test_what_is_new_is_written_where_the_next_frame_reads_it() {
  for (const float cfg_scale : {1.0f, 1.5f}) {
    CountingRunner runner;
    EngineDriver driver(load(runner));
    const unils_stream_sizes sizes = tiny_sizes();
    const StateLayout layout = driver.layout();
    void* block = driver.state.block;
    const int e = sizes.width / sizes.heads;
    const auto number = CountingRunner::number;
    for (int frame = 0; frame < 40; ++frame) {  // over two wraps
      std::vector<float> logits(static_cast<size_t>(sizes.levels * sizes.bits));
      StepParams params = guided(cfg_scale);
      params.logits = logits.data();
      const std::vector<float> motion = driver.step(params);
      for (int c = 0; c < sizes.channels; ++c) CHECK(motion[static_cast<size_t>(c)] == number(frame, 0, c));
      for (size_t i = 0; i < logits.size(); ++i) CHECK(logits[i] == number(frame, 0, static_cast<int64_t>(i)));
      const std::vector<double> bits = driver.bits();
      for (size_t i = 0; i < bits.size(); ++i) CHECK(bits[i] == double{CountingRunner::bit(frame, static_cast<int64_t>(i))});
      const int64_t slot = layout.self[0].index().slot(frame);
      for (int row = 0; row < 2; ++row) {
        for (int layer = 0; layer < sizes.depth; ++layer) {
          for (int w = 0; w < sizes.width; ++w) {
            const int64_t place = int64_t{row * sizes.depth + layer} * sizes.width + w;
            const bool written = row == 0 || cfg_scale != 1.0f;
            const KvRing& ring = layout.self[row];
            const float key = ring.keys(block, layer, w / e)[w % e * ring.index().capacity() + slot];
            const float value = ring.values(block, layer, w / e)[slot * ((e + 15) / 16 * 16) + w % e];
            CHECK(key == (written ? number(frame, 2, place) : 0.0f));
            CHECK(value == (written ? number(frame, 3, place) : 0.0f));
          }
        }
      }
      for (int i = 0; i < sizes.codec_depth; ++i) {
        CHECK(layout.decoder.row(block, i, frame)[1] == number(frame, 1, i * sizes.codec_width + 1));
      }
      // The last row that was pushed is of the other track.
      const int run = runner.runs[0] - 1;
      for (int i = 0; i < sizes.audio_depth; ++i) {
        CHECK(layout.audio[1].row(block, i, frame)[2] == number(run, 0, i * sizes.audio_width + 2));
      }
      const KvRing& heard = layout.cross[1];
      CHECK(heard.keys(block, 1, 0)[heard.index().slot(frame)] == number(run, 1, sizes.width));
      CHECK(heard.values(block, 1, 0)[heard.index().slot(frame) * ((e + 15) / 16 * 16)] == number(run, 2, sizes.width));
      // What the next frame is made from is what this one was.
      const CountingRunner::Call& step = runner.last[1];
      CHECK(*step.input<int64_t>("first") == (frame == 0));
      for (int i = 0; i < 20 && frame > 0; ++i) CHECK(runner.bits_seen[i] == CountingRunner::bit(frame - 1, i));
      CHECK(runner.zeros_seen[0] == std::min(frame, sizes.window_frames - 1));
      CHECK(runner.zeros_seen[1] == std::min(frame + 1, sizes.audio_window_frames) + params.look_ahead_self);
      CHECK(runner.zeros_seen[2] == std::min(frame + 1, sizes.audio_window_frames));
      const float* mask = step.input("past_mask");
      CHECK(mask[slot] < -1e29f);  // what lies there is of a frame that left the window
      CHECK(frame == 0 || mask[layout.self[0].index().slot(frame - 1)] == 0.0f);
      const auto* slots = runner.last[2].input<int64_t>("slots");
      const float* there = runner.last[2].input("mask");
      for (int tap = 0; tap < sizes.codec_kernel; ++tap) {
        const int64_t at = frame - (sizes.codec_kernel - 1) + tap;
        CHECK(there[tap] == (at >= 0 && at < frame ? 1.0f : 0.0f));
        CHECK(slots[tap] == (there[tap] != 0.0f ? layout.decoder.index().slot(at) : 0));
      }
    }
    CHECK(runner.shapes_fit);
  }
}

void test_a_frame_whose_graph_fails_is_still_to_be_made() {
  for (const char* graph : Config::kStreamGraphs) {
    CountingRunner runner;
    EngineDriver driver(load(runner));
    for (int frame = 0; frame < 3; ++frame) driver.step(guided());
    driver.push_needed(guided());
    const std::vector<double> bits = driver.bits();
    runner.fail_at = graph;
    std::vector<float> motion(static_cast<size_t>(driver.engine->channels()));
    CHECK_ERROR(driver.engine->step(driver.state, *driver.workspace, guided(), motion.data()), UNILS_ERROR_BACKEND,
                std::string("graph ") + graph + " failed: told to fail");
    CHECK(driver.frame() == 3 && driver.bits() == bits);
    runner.fail_at.clear();
    driver.step(guided());
    for (int i = 0; i < 20; ++i) CHECK(double{runner.bits_seen[i]} == bits[static_cast<size_t>(i)]);
    CHECK(driver.frame() == 4 && driver.bits() != bits);
  }
}

void test_a_batch_keeps_all_of_its_frames_or_none() {
  CountingRunner runner;
  const std::shared_ptr<const Model> model = load(runner);
  EngineDriver first(model), second(model);
  std::unique_ptr<StepWorkspace> workspace;
  CHECK_OK(first.engine->create_workspace(2, &workspace));
  const StepParams params = guided();
  std::vector<float> motion(2 * static_cast<size_t>(first.engine->channels()));
  StepRequest requests[2];
  const auto step = [&] {
    first.push_needed(params), second.push_needed(params);
    requests[0].state = first.state, requests[0].motion = motion.data();
    requests[1].state = second.state, requests[1].motion = motion.data() + first.engine->channels();
    for (StepRequest& request : requests) request.params = &params;
    first.engine->step_batch(requests, 2, *workspace);
  };
  step();
  CHECK_OK(requests[0].status);
  CHECK_OK(requests[1].status);
  CHECK(first.bits() != second.bits());  // of run 0 and run 1
  const std::vector<double> bits = first.bits();
  runner.fail_at = "decode", runner.fail_after = 1;
  step();
  CHECK_ERROR(requests[0].status, UNILS_ERROR_BACKEND, "graph decode failed");
  CHECK_ERROR(requests[1].status, UNILS_ERROR_BACKEND, "graph decode failed");
  CHECK(first.frame() == 1 && second.frame() == 1 && first.bits() == bits);
  runner.fail_at.clear();
  step();
  CHECK(first.frame() == 2 && second.frame() == 2 && first.bits() != bits);
}

void test_a_model_says_who_runs_it_and_gives_its_graphs_back() {
  CountingRunner runner;
  {
    const std::shared_ptr<const Model> model = load(runner, 3);
    CHECK(runner.loads == 1 && runner.threads == 3 && runner.unloads == 0);
    CHECK(std::string(model->backend_name()) == "onnxruntime" && model->backend_detail() == "9.9 by hand");
    std::shared_ptr<const Model> on_cpu;
    CHECK_OK(Model::load(bundle_path.c_str(), "cpu", 1, &on_cpu));
    CHECK(model->fingerprint() == on_cpu->fingerprint());  // so a snapshot goes from one to the other
    CHECK(model->weight_bytes() == on_cpu->weight_bytes());
  }
  CHECK(runner.unloads == 1 && runner.shapes_fit);
}

void test_a_runner_is_asked_for_by_its_name() {
  CountingRunner runner;
  runner.table.name = "tensorrt";
  std::shared_ptr<const Model> model;
  CHECK_ERROR(Model::load(bundle_path.c_str(), "onnxruntime", 1, &model, &runner.table), UNILS_ERROR_BACKEND,
              "backend onnxruntime needs a graph runner of that name");
  CHECK_OK(Model::load(bundle_path.c_str(), "tensorrt", 1, &model, &runner.table, UNILS_FP16));
  CHECK(std::string(model->backend_name()) == "tensorrt" && runner.loads == 1);
  EngineDriver driver(model);
  driver.step(guided());
  CHECK(runner.runs[1] == 1 && runner.shapes_fit);
}

void test_a_model_that_cannot_have_its_graphs_is_refused(const TemporaryFolder& folder) {
  CountingRunner runner;
  std::shared_ptr<const Model> model;
  const auto refused = [&](const std::string& bundle, const char* backend, const unils_graph_runner* table,
                           unils_precision precision = UNILS_FP32) {
    return Model::load(bundle.c_str(), backend, 1, &model, table, precision);
  };
  CHECK_ERROR(refused(bundle_path, "onnxruntime", nullptr), UNILS_ERROR_BACKEND, "needs a graph runner");
  unils_graph_runner another = runner.table;
  another.name = "another";
  CHECK_ERROR(refused(bundle_path, "onnxruntime", &another), UNILS_ERROR_BACKEND, "needs a graph runner");
  another = runner.table;
  another.run = nullptr;
  CHECK_ERROR(refused(bundle_path, "onnxruntime", &another), UNILS_ERROR_INVALID_ARGUMENT, "not complete");
  another = runner.table;
  another.struct_size -= 1;
  CHECK_ERROR(refused(bundle_path, "onnxruntime", &another), UNILS_ERROR_INVALID_ARGUMENT, "struct_size");
  CHECK_ERROR(refused(bundle_path, "onnxruntime", &runner.table, UNILS_FP16), UNILS_ERROR_BACKEND, "float32 only");
  runner.fail_at = "load";
  CHECK_ERROR(refused(bundle_path, "onnxruntime", &runner.table), UNILS_ERROR_BACKEND, "there is no accelerator");
  runner.fail_at.clear();

  const std::string without = folder / "without";
  BundleWriter().write(without);
  CHECK_ERROR(refused(without, "onnxruntime", &runner.table), UNILS_ERROR_BACKEND,
              "this bundle holds no graphs; make them with unils export-onnx");

  const std::string changed = folder / "changed";
  write_graph_bundle(BundleWriter(), changed);
  std::ofstream(changed + "/step.onnx", std::ios::binary) << "another graph";
  CHECK_ERROR(refused(changed, "onnxruntime", &runner.table), UNILS_ERROR_BUNDLE, "step.onnx is not the file");
  CHECK_OK(refused(changed, "cpu", &runner.table));  // which does not read it
  CHECK_OK(refused(changed, "auto", &runner.table));
  CHECK(std::string(model->backend_name()) == "cpu");  // and auto never runs graphs in its place
  std::filesystem::remove(changed + "/step.onnx");
  CHECK_ERROR(refused(changed, "onnxruntime", &runner.table), UNILS_ERROR_IO, "step.onnx");

  const std::string broken = folder / "broken";
  BundleWriter().write(broken, BundleWriter().weights(), [](std::string* json) {
    replace(json, "\"provenance\"", "\"graphs\":{\"encode\":{\"file\":\"../encode.onnx\"}},\"provenance\"");
  });
  CHECK_ERROR(refused(broken, "cpu", nullptr), UNILS_ERROR_BUNDLE, "graphs.encode.file");
}

}  // namespace

int main() {
  const TemporaryFolder folder("unils_stream_graphs");
  bundle_path = folder / "bundle";
  write_graph_bundle(BundleWriter(), bundle_path);
  test_a_logit_above_its_threshold_is_what_the_sampler_draws_as_one();
  test_rings_are_bound_where_they_lie_in_a_state_block();
  test_what_is_new_is_written_where_the_next_frame_reads_it();
  test_a_frame_whose_graph_fails_is_still_to_be_made();
  test_a_batch_keeps_all_of_its_frames_or_none();
  test_a_model_says_who_runs_it_and_gives_its_graphs_back();
  test_a_runner_is_asked_for_by_its_name();
  test_a_model_that_cannot_have_its_graphs_is_refused(folder);
  return check::result();
}
