// A bundle of family "stream" that holds graphs, for tests, and a runner whose graphs are counters: what they give is
// numbered, so that it can be found again where it was put.
#pragma once
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <string>

#include "bundle_writer.h"
#include "model/config.h"
#include "unils/unils.h"

namespace unils {

inline void write_graph_bundle(const BundleWriter& writer, const std::string& folder) {
  std::filesystem::create_directories(folder);
  std::string graphs;
  for (const char* name : Config::kStreamGraphs) {
    const std::string content = std::string("the graph ") + name;
    graphs += std::string(graphs.empty() ? "\"" : ",\"") + name + "\":{\"file\":\"" + name + ".onnx\",\"sha256\":\"" +
              sha256_text(sha256(content.data(), content.size())) + "\"}";
    std::ofstream(folder + "/" + name + ".onnx", std::ios::binary) << content;
  }
  writer.write(folder, writer.weights(), [&](std::string* json) {
    replace(json, "\"provenance\"", "\"graphs\":{" + graphs + "},\"provenance\"");
  });
}

// It allocates nothing.
class CountingRunner {
 public:
  explicit CountingRunner(const unils_stream_sizes& sizes = tiny_sizes()) : sizes_(sizes) {
    table.struct_size = sizeof table;
    table.name = "onnxruntime";
    table.context = this;
    table.load = &load;
    table.run = &run;
    table.unload = &unload;
  }

  // A call as it came; views lie where the graph would read and write.
  struct Call {
    unils_tensor_view in[20] = {}, out[4] = {};
    int32_t in_count = 0, out_count = 0;

    template <typename T = float>
    const T* input(const char* name) const {
      for (int32_t i = 0; i < in_count; ++i) {
        if (std::strcmp(in[i].name, name) == 0) return static_cast<const T*>(in[i].data);
      }
      return nullptr;
    }
  };

  unils_graph_runner table = {};
  std::string fail_at;   // name of the graph that fails, "load" for load
  int fail_after = 0;    // after so many runs of it
  int loads = 0, unloads = 0, threads = 0;
  int runs[3] = {};      // by graph
  Call last[3];          // by graph
  float bits_seen[64] = {};  // by the last step
  int zeros_seen[3] = {};    // in its masks: past, self, other
  bool shapes_fit = true;

  // What output `index` of run `run` of a graph holds at `place`; bits are signs.
  static float number(int run, int index, int64_t place) {
    return static_cast<float>(run) + 0.1f * static_cast<float>(index) + 0.0001f * static_cast<float>(place);
  }
  static float bit(int run, int64_t place) { return (run + place) % 3 == 0 ? -1.0f : 1.0f; }

 private:
  static unils_status say(unils_sentence* sentence, const char* text, unils_status status) {
    std::snprintf(sentence->text, sizeof sentence->text, "%s", text);
    return status;
  }
  static unils_status load(void* context, const unils_graph* graphs, int32_t count, int32_t threads, void** loaded,
                           unils_sentence* sentence) {
    auto* runner = static_cast<CountingRunner*>(context);
    if (runner->fail_at == "load") return say(sentence, "there is no accelerator", UNILS_ERROR_BACKEND);
    runner->shapes_fit = runner->shapes_fit && count == 3;
    for (int32_t i = 0; i < count; ++i) {
      runner->shapes_fit = runner->shapes_fit && std::strcmp(graphs[i].name, Config::kStreamGraphs[i]) == 0 &&
                           std::ifstream(graphs[i].path).good();
    }
    ++runner->loads;
    runner->threads = threads;
    *loaded = runner;
    return say(sentence, "9.9 by hand", UNILS_OK);
  }
  static void unload(void* loaded) { ++static_cast<CountingRunner*>(loaded)->unloads; }

  struct Port {
    const char* name;
    std::initializer_list<int64_t> shape;  // behind the axis of sessions
    unils_element element = UNILS_ELEMENT_FLOAT32;
  };
  static bool is(const unils_tensor_view& view, const Port& port) {
    return std::strcmp(view.name, port.name) == 0 && view.element == port.element && view.shape[0] == 1 &&
           view.rank == static_cast<int32_t>(port.shape.size()) + 1 &&
           std::equal(port.shape.begin(), port.shape.end(), view.shape + 1);
  }
  static bool are(const unils_tensor_view* views, int32_t count, std::initializer_list<Port> ports) {
    return count == static_cast<int32_t>(ports.size()) && std::equal(ports.begin(), ports.end(), views,
                                                                     [](const Port& port, const unils_tensor_view& view) {
                                                                       return is(view, port);
                                                                     });
  }

  static unils_status run(void* loaded, const char* graph, const unils_tensor_view* in, int32_t in_count,
                          const unils_tensor_view* out, int32_t out_count, unils_sentence* why) {
    return static_cast<CountingRunner*>(loaded)->run_graph(graph, in, in_count, out, out_count, why);
  }
  unils_status run_graph(const char* graph, const unils_tensor_view* in, int32_t in_count,
                         const unils_tensor_view* out, int32_t out_count, unils_sentence* why) {
    int index = 0;
    while (index < 3 && std::strcmp(graph, Config::kStreamGraphs[index]) != 0) ++index;
    if (fail_at == graph && fail_after-- == 0) return say(why, "told to fail", UNILS_ERROR_BACKEND);
    const unils_stream_sizes& s = sizes_;
    const int64_t e = s.width / s.heads, stride = (e + 15) / 16 * 16, bits = s.levels * s.bits;
    const auto slots = [](int64_t positions) { return (positions + 15) / 16 * 16; };
    const auto ring = [&](int64_t n) { return s.depth * s.heads * n * (e + stride); };
    const int64_t style = slots(s.style_tokens), past = slots(s.window_frames);
    const int64_t own = slots(s.audio_window_frames + s.look_ahead_self_max);
    const int64_t other = slots(s.audio_window_frames + s.look_ahead_other_max);
    bool fits = false;
    if (index == 0) {
      const int64_t history = s.audio_depth * (s.audio_kernel + 16) * s.audio_width;
      fits = are(in, in_count,
                 {{"log_mel", {s.row_values}},
                  {"history", {history}},
                  {"slots", {s.audio_kernel}, UNILS_ELEMENT_INT64},
                  {"mask", {s.audio_kernel}},
                  {"track", {}, UNILS_ELEMENT_INT64},
                  {"cosines", {e / 2}},
                  {"sines", {e / 2}}}) &&
             are(out, out_count,
                 {{"rows", {s.audio_depth, s.audio_width}},
                  {"keys", {s.depth, s.width}},
                  {"values", {s.depth, s.width}}});
    } else if (index == 1) {
      fits = are(in, in_count,
                 {{"bits", {bits}},
                  {"first", {}, UNILS_ELEMENT_INT64},
                  {"look_ahead_self", {}, UNILS_ELEMENT_INT64},
                  {"look_ahead_other", {}, UNILS_ELEMENT_INT64},
                  {"cosines", {e / 2}},
                  {"sines", {e / 2}},
                  {"style_ring", {ring(style)}},
                  {"past_rings", {2, ring(past)}},
                  {"audio_self_ring", {ring(own)}},
                  {"audio_other_ring", {ring(other)}},
                  {"past_mask", {past}},
                  {"audio_self_mask", {own}},
                  {"audio_other_mask", {other}},
                  {"cfg_scale", {}},
                  {"thresholds", {bits}}}) &&
             are(out, out_count,
                 {{"logits", {bits}},
                  {"next_bits", {bits}},
                  {"keys", {2, s.depth, s.width}},
                  {"values", {2, s.depth, s.width}}});
    } else if (index == 2) {
      fits = are(in, in_count,
                 {{"bits", {bits}},
                  {"history", {s.codec_depth * s.codec_kernel * s.codec_width}},
                  {"slots", {s.codec_kernel}, UNILS_ELEMENT_INT64},
                  {"mask", {s.codec_kernel}}}) &&
             are(out, out_count, {{"motion", {s.channels}}, {"rows", {s.codec_depth, s.codec_width}}});
    }
    shapes_fit = shapes_fit && fits;
    if (!fits) return say(why, "this is not what docs/onnx.md says", UNILS_ERROR_INTERNAL);
    Call& call = last[index];
    std::copy(in, in + in_count, call.in), std::copy(out, out + out_count, call.out);
    call.in_count = in_count, call.out_count = out_count;
    if (index == 1) {
      std::copy_n(call.input("bits"), std::min<int64_t>(bits, 64), bits_seen);
      const char* masks[] = {"past_mask", "audio_self_mask", "audio_other_mask"};
      const int64_t lengths[] = {past, own, other};
      for (int i = 0; i < 3; ++i) {
        zeros_seen[i] = static_cast<int>(std::count(call.input(masks[i]), call.input(masks[i]) + lengths[i], 0.0f));
      }
    }
    for (int32_t i = 0; i < out_count; ++i) {
      int64_t count = 1;
      for (int32_t axis = 0; axis < out[i].rank; ++axis) count *= out[i].shape[axis];
      for (int64_t place = 0; place < count; ++place) {
        static_cast<float*>(out[i].data)[place] =
            index == 1 && i == 1 ? bit(runs[1], place) : number(runs[index], i, place);
      }
    }
    ++runs[index];
    return UNILS_OK;
  }

  unils_stream_sizes sizes_;
};

}  // namespace unils
