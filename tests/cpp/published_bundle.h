// A bundle of family "published" for tests, and a graph runner whose graphs are plain functions of every value that they
// are given, row by row, so that a session's frames tell what was heard, and a sanitizer finds a view that is too long.
#pragma once
#include <sys/mman.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "bundle_writer.h"
#include "model/published_config.h"
#include "unils/unils.h"

namespace unils {

// Odd on purpose: 12 frames of window, 5 bits, 3 heads, 7 audio rows.
inline PublishedConfig tiny_published() {
  PublishedConfig sizes;
  sizes.channels = 55, sizes.window_frames = 12, sizes.bits = 5, sizes.scales = {1, 5, 12};
  sizes.width = 18, sizes.heads = 3, sizes.depth = 2, sizes.audio_rows = 7, sizes.audio_width = 9, sizes.contexts = 2;
  return sizes;
}

class PublishedBundle {
 public:
  explicit PublishedBundle(const PublishedConfig& sizes = tiny_published()) : sizes(sizes) {
    writer_.tensors.clear();
    for (const TensorShape& shape : expected_tensors(sizes)) {
      BundleWriter::Tensor tensor = {shape, std::vector<float>(static_cast<size_t>(shape.count()))};
      for (size_t i = 0; i < tensor.values.size(); ++i) {
        const auto wave = static_cast<float>(std::sin(static_cast<double>(i) + 1.0));
        tensor.values[i] = shape.name == "generator.positions" ? static_cast<float>(24 + i % 12)
                           : shape.name == "codec.motion_std"  ? 0.2f + 0.1f * wave * wave
                                                               : 0.5f * wave;
      }
      writer_.tensors.push_back(std::move(tensor));
    }
  }

  std::string json(const std::string& weights) const {
    const auto n = [](int value) { return std::to_string(value); };
    std::string scales, channels, graphs;
    for (const int scale : sizes.scales) scales += (scales.empty() ? "" : ",") + n(scale);
    for (int i = 0; i < sizes.channels; ++i) channels += (i == 0 ? "\"c" : ",\"c") + n(i) + "\"";
    for (const char* name : PublishedConfig::kGraphs) {
      const std::string content = graph(name);
      graphs += std::string(graphs.empty() ? "\"" : ",\"") + name + "\":{\"file\":\"" + name + ".onnx\",\"sha256\":\"" +
                sha256_text(sha256(content.data(), content.size())) + "\"}";
    }
    return "{\"format\":\"unils-bundle\",\"format_version\":1,\"family\":\"published\",\"rig\":\"arkit\","
           "\"channels\":[" + channels + "],\"sample_rate\":16000,\"hop_samples\":640,\"frame_rate\":25,"
           "\"window_frames\":" + n(sizes.window_frames) + ",\"audio_encoder\":{\"rows\":" + n(sizes.audio_rows) +
           ",\"width\":" + n(sizes.audio_width) + "},\"codec\":{\"bits\":" + n(sizes.bits) + ",\"scales\":[" + scales +
           "]},\"generator\":{\"width\":" + n(sizes.width) + ",\"heads\":" + n(sizes.heads) + ",\"depth\":" +
           n(sizes.depth) + ",\"cross_attention\":\"separate\"},\"parameters\":123,\"graphs\":{" + graphs +
           "},\"defaults\":{\"temperature\":1.0,\"top_p\":0.97,\"cfg_scale\":1.5},\"provenance\":{},"
           "\"licence\":\"none\",\"weights\":{\"file\":\"weights.safetensors\",\"sha256\":\"" +
           sha256_text(sha256(weights.data(), weights.size())) + "\"}}";
  }

  void write(const std::string& folder, const std::function<void(std::string*)>& edit_json = {}) const {
    const std::string weights = writer_.weights();
    std::string text = json(weights);
    if (edit_json) edit_json(&text);
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/model.json", std::ios::binary) << text;
    std::ofstream(folder + "/weights.safetensors", std::ios::binary) << weights;
    for (const char* name : PublishedConfig::kGraphs) {
      std::ofstream(folder + "/" + name + ".onnx", std::ios::binary) << graph(name);
    }
  }

  PublishedConfig sizes;

 private:
  static std::string graph(const std::string& name) { return "the graph " + name; }

  BundleWriter writer_;
};

// It allocates nothing, in load either, unless it keeps memory.
class FakeRunner {
 public:
  explicit FakeRunner(const PublishedConfig& sizes = tiny_published()) : sizes_(sizes) {
    table.struct_size = sizeof table;
    table.name = "fake";
    table.context = this;
    table.load = &load;
    table.run = &run;
    table.unload = &unload;
    waveforms.resize(2 * 640 * static_cast<size_t>(sizes.window_frames));
  }

  // Has memory of its own, which nobody can touch but while a graph runs: a card's.
  void keep_memory() {
    table.allocate = &allocate;
    table.release = &release;
  }

  unils_graph_runner table = {};
  std::map<void*, size_t> memory;
  std::string fail_at;      // name of the graph that fails, "load" for load, "allocate"
  int loads = 0, unloads = 0, threads = 0;
  int rows = 0;             // of the last prefill
  int tracks = 0;           // of the last audio_encoder
  int64_t encodings = 0;    // calls of audio_encoder
  std::vector<float> waveforms;  // of the last audio_encoder, (tracks, 640 F)
  bool cheap = false;       // outputs are zeros, and inputs are not looked at
  bool shapes_fit = true;
  const float* next_cache = nullptr;  // where the next step's keys and values must go

 private:
  static unils_status say(unils_sentence* sentence, const char* text, unils_status status) {
    std::snprintf(sentence->text, sizeof sentence->text, "%s", text);
    return status;
  }

  static unils_status load(void* context, const unils_graph* graphs, int32_t count, int32_t threads, void** loaded,
                           unils_sentence* sentence) {
    auto* runner = static_cast<FakeRunner*>(context);
    if (runner->fail_at == "load") return say(sentence, "there is no accelerator", UNILS_ERROR_BACKEND);
    runner->shapes_fit = runner->shapes_fit && count == PublishedConfig::kGraphCount;
    for (int32_t i = 0; i < count; ++i) {
      runner->shapes_fit = runner->shapes_fit && std::strcmp(graphs[i].name, PublishedConfig::kGraphs[i]) == 0;
    }
    ++runner->loads;
    runner->threads = threads;
    *loaded = runner;
    return say(sentence, "on the moon", UNILS_OK);
  }
  static void unload(void* loaded) { ++static_cast<FakeRunner*>(loaded)->unloads; }

  static unils_status allocate(void* loaded, size_t bytes, void** memory, unils_sentence* why) {
    auto* runner = static_cast<FakeRunner*>(loaded);
    if (runner->fail_at == "allocate") return say(why, "the card is full", UNILS_ERROR_OUT_OF_MEMORY);
    *memory = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (*memory == MAP_FAILED) return UNILS_ERROR_OUT_OF_MEMORY;
    runner->memory[*memory] = bytes;
    return UNILS_OK;
  }
  static void release(void* loaded, void* memory) {
    auto* runner = static_cast<FakeRunner*>(loaded);
    munmap(memory, runner->memory.at(memory));
    runner->memory.erase(memory);
  }
  void open_memory(int protection) const {
    for (const auto& [address, bytes] : memory) mprotect(address, bytes, protection);
  }

  static int64_t count_of(const unils_tensor_view& view) {
    int64_t count = 1;
    for (int32_t i = 0; i < view.rank; ++i) count *= view.shape[i];
    return count;
  }
  static bool is(const unils_tensor_view& view, const char* name, std::initializer_list<int64_t> shape) {
    if (std::strcmp(view.name, name) != 0 || view.rank != static_cast<int32_t>(shape.size())) return false;
    return std::equal(shape.begin(), shape.end(), view.shape);
  }
  // The axis along which rows, tracks or faces lie; -1: all of them share the view.
  static int row_axis(const unils_tensor_view& view) {
    const std::string name = view.name;
    if (name == "level" || name == "rope") return -1;
    return name == "cache" || name == "audio" || name == "added" ? 3 : 0;
  }
  // Calls visit(offset, index) for each value of a row: its place in the view, and its number within the row.
  template <typename Visit>
  static void for_row(const unils_tensor_view& view, int64_t row, const Visit& visit) {
    const int axis = row_axis(view);
    int64_t outer = 1, rows = 1, inner = 1;
    for (int i = 0; i < view.rank; ++i) (i < axis ? outer : i == axis ? rows : inner) *= view.shape[i];
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t i = 0; i < inner; ++i) visit((o * rows + (axis < 0 ? 0 : row)) * inner + i, o * inner + i);
    }
  }
  // A number that every value of a row changes.
  static double digest(const unils_tensor_view& view, int64_t row) {
    double sum = 0.0;
    for_row(view, row, [&](int64_t offset, int64_t index) {
      const double value = view.element == UNILS_ELEMENT_INT64
                               ? static_cast<double>(static_cast<const int64_t*>(view.data)[offset])
                               : double{static_cast<const float*>(view.data)[offset]};
      sum += value * std::cos(0.37 * static_cast<double>(index));
    });
    return sum;
  }
  static void fill(const unils_tensor_view& view, int64_t row, double seed, double size) {
    for_row(view, row, [&](int64_t offset, int64_t index) {
      static_cast<float*>(view.data)[offset] =
          static_cast<float>(size * std::sin(seed + 0.7 * static_cast<double>(index)));
    });
  }

  static unils_status run(void* loaded, const char* graph, const unils_tensor_view* in, int32_t in_count,
                          const unils_tensor_view* out, int32_t out_count, unils_sentence* why) {
    auto* runner = static_cast<FakeRunner*>(loaded);
    runner->open_memory(PROT_READ | PROT_WRITE);
    const unils_status status = runner->run_graph(graph, in, in_count, out, out_count, why);
    runner->open_memory(PROT_NONE);
    return status;
  }
  unils_status run_graph(const std::string& graph, const unils_tensor_view* in, int32_t in_count,
                         const unils_tensor_view* out, int32_t out_count, unils_sentence* why) {
    if (graph == fail_at) return say(why, "told to fail", UNILS_ERROR_BACKEND);
    const int64_t F = sizes_.window_frames, d = sizes_.bits, D = sizes_.channels, K = sizes_.depth, H = sizes_.heads;
    const int64_t J = sizes_.audio_rows, A = sizes_.audio_width, e = sizes_.head_width();
    bool fits = false;
    const int64_t batch = in[0].shape[0];  // tracks, rows or faces
    if (graph == "audio_encoder") {
      fits = in_count == 1 && out_count == 1 && batch >= 1 && batch <= 2 && is(in[0], "waveform", {batch, 640 * F}) &&
             is(out[0], "features", {batch, J, A});
      ++encodings;
      tracks = static_cast<int>(batch);
      if (fits) std::copy_n(static_cast<const float*>(in[0].data), batch * 640 * F, waveforms.data());
    } else if (graph == "prefill") {
      const int64_t R = batch;
      rows = static_cast<int>(R);
      fits = in_count == 4 && out_count == 2 && is(in[0], "style", {R, F, d}) && is(in[1], "previous", {R, F, d}) &&
             is(in[2], "self_features", {R, J, A}) && is(in[3], "other_features", {R, J, A}) &&
             is(out[0], "cache", {2 * F, K, 2, R, H, e}) && is(out[1], "audio", {K, 2, 2, R, H, J, e});
      next_cache = static_cast<const float*>(out[0].data) + count_of(out[0]);
    } else if (graph == "step") {
      const int64_t R = batch, n = in[0].shape[1], m = in[3].shape[0];
      fits = in_count == 5 && out_count == 2 && R == rows && is(in[0], "latents", {R, n, d}) &&
             is(in[1], "level", {1}) && is(in[2], "rope", {2, n, e / 2}) && is(in[3], "cache", {m, K, 2, R, H, e}) &&
             is(in[4], "audio", {K, 2, 2, R, H, J, e}) && is(out[0], "logits", {R, n, d, 2}) &&
             is(out[1], "added", {n, K, 2, R, H, e}) && out[1].data == next_cache;
      next_cache = static_cast<const float*>(out[1].data) + count_of(out[1]);
    } else if (graph == "codec_encode") {
      fits = in_count == 1 && out_count == 1 && is(in[0], "motion", {batch, F, D}) && is(out[0], "z", {batch, F, d});
    } else if (graph == "codec_decode") {
      fits = in_count == 1 && out_count == 1 && is(in[0], "latent", {batch, F, d}) && is(out[0], "motion", {batch, F, D});
    }
    shapes_fit = shapes_fit && fits;
    for (int32_t i = 0; i < out_count && cheap; ++i) {
      std::fill_n(static_cast<float*>(out[i].data), count_of(out[i]), 0.0f);
    }
    for (int64_t row = 0; row < batch && fits && !cheap; ++row) {
      double seed = 0.0;
      for (int32_t i = 0; i < in_count; ++i) seed += (i + 1) * digest(in[i], row);
      for (int32_t i = 0; i < out_count; ++i) fill(out[i], row, seed + i, graph == "step" && i == 0 ? 3.0 : 1.0);
    }
    return UNILS_OK;
  }

  PublishedConfig sizes_;
};

}  // namespace unils
