#include "backends/graphs/graph_backend.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <memory>
#include <new>
#include <vector>

#include "backends/cpu/cpu_backend.h"
#include "core/arena.h"
#include "engine/rope.h"
#include "engine/sampler.h"
#include "engine/state_layout.h"
#include "model/graphs.h"

namespace unils {
namespace {

constexpr float kMasked = -1e30f;  // added to the score of a slot that is not seen

struct GraphModel {
  explicit GraphModel(const unils_model_spec& spec)
      : sizes(*spec.sizes), layout(*spec.sizes, *spec.features), rope(spec.sizes->width / spec.sizes->heads) {}
  ~GraphModel() {
    if (host != nullptr) kCpuBackend.model_free(host);
  }
  GraphModel(const GraphModel&) = delete;
  GraphModel& operator=(const GraphModel&) = delete;

  unils_stream_sizes sizes;
  StateLayout layout;
  Rope rope;
  std::unique_ptr<Graphs> graphs;
  // What is done once a session, the style prefix, is no graph's work: the cpu backend does it, in the same blocks.
  unils_backend_model* host = nullptr;
};

// What goes into the graphs, for one session, and what comes out of step and decode, for each.
struct GraphWorkspace {
  GraphWorkspace(const unils_stream_sizes& sizes, const StateLayout& layout) {
    ArenaLayout arena;
    const auto floats = [&arena](int64_t count) { return arena.add<float>(static_cast<size_t>(count)); };
    const int kernel = std::max(sizes.audio_kernel, sizes.codec_kernel);
    slots = arena.add<int64_t>(static_cast<size_t>(kernel));
    mask = floats(kernel);
    number = arena.add<int64_t>(3);
    cosines = floats(sizes.width / sizes.heads / 2);
    sines = floats(sizes.width / sizes.heads / 2);
    past_mask = floats(layout.self[0].index().capacity());
    for (int track = 0; track < 2; ++track) audio_mask[track] = floats(layout.cross[track].index().capacity());
    cfg_scale = floats(1);
    thresholds = floats(sizes.levels * sizes.bits);
    audio_rows = floats(sizes.audio_depth * sizes.audio_width);
    shared_bytes = arena.bytes();

    ArenaLayout session;
    const auto of_session = [&session](int64_t count) { return session.add<float>(static_cast<size_t>(count)); };
    logits = of_session(sizes.levels * sizes.bits);
    bits = of_session(sizes.levels * sizes.bits);
    keys = of_session(int64_t{2} * sizes.depth * sizes.width);
    values = of_session(int64_t{2} * sizes.depth * sizes.width);
    motion = of_session(sizes.channels);
    decoder_rows = of_session(sizes.codec_depth * sizes.codec_width);
    session_bytes = session.bytes();
  }
  ~GraphWorkspace() {
    if (host != nullptr) kCpuBackend.workspace_free(host);
  }
  GraphWorkspace(const GraphWorkspace&) = delete;
  GraphWorkspace& operator=(const GraphWorkspace&) = delete;

  Status create(const GraphModel& model, int sessions) {
    UNILS_RETURN_IF_ERROR(Arena::create(shared_bytes + static_cast<size_t>(sessions) * session_bytes, &memory));
    unils_sentence why = {};
    const unils_status made = kCpuBackend.workspace_create(model.host, 1, &host, &why);
    return made == UNILS_OK ? Status() : Status(made, why.text);
  }

  template <typename T = float>
  T* at(size_t offset) {
    return memory.at<T>(offset);
  }
  float* of(int session, size_t offset) {
    return memory.at<float>(shared_bytes + static_cast<size_t>(session) * session_bytes + offset);
  }

  // Offsets of what all sessions share ...
  size_t slots, mask, number, cosines, sines, past_mask, audio_mask[2], cfg_scale, thresholds, audio_rows, shared_bytes;
  // ... and of a session's own.
  size_t logits, bits, keys, values, motion, decoder_rows, session_bytes;
  Arena memory;
  unils_backend_workspace* host = nullptr;
};

const GraphModel& of(const unils_backend_model* model) { return *reinterpret_cast<const GraphModel*>(model); }
GraphWorkspace& of(unils_backend_workspace* workspace) { return *reinterpret_cast<GraphWorkspace*>(workspace); }

// A tensor of one session.
unils_tensor_view view(const char* name, const void* data, std::initializer_list<int64_t> shape,
                       unils_element element = UNILS_ELEMENT_FLOAT32) {
  unils_tensor_view made = {name, element, static_cast<int32_t>(shape.size()) + 1, {1}, const_cast<void*>(data)};
  std::copy(shape.begin(), shape.end(), made.shape + 1);
  return made;
}
unils_tensor_view view(const char* name, const KvRing& ring, const void* state) {
  return view(name, ring.keys(state, 0, 0), {ring.floats()});
}

// One call of one graph.
class Call {
 public:
  Call(const GraphModel& model, const char* graph) : model_(model), graph_(graph) {}

  void add(const unils_tensor_view& input) { inputs_[input_count_++] = input; }
  // The angles of a position.
  void add_angles(GraphWorkspace* work, int64_t position) {
    model_.rope.row(position, work->at(work->cosines), work->at(work->sines));
    const int64_t pairs = model_.sizes.width / model_.sizes.heads / 2;
    add(view("cosines", work->at(work->cosines), {pairs}));
    add(view("sines", work->at(work->sines), {pairs}));
  }
  // A ring of rows and what the convolutions see of it at `position`.
  void add_history(GraphWorkspace* work, const RowRing& ring, void* state, int64_t position, int kernel) {
    auto* slots = work->at<int64_t>(work->slots);
    float* mask = work->at(work->mask);
    for (int tap = 0; tap < kernel; ++tap) {
      const int64_t at = position - (kernel - 1) + tap;
      const bool there = at >= 0 && at < position;
      slots[tap] = there ? ring.index().slot(at) : 0;
      mask[tap] = there ? 1.0f : 0.0f;
    }
    add(view("history", ring.row(state, 0, 0), {ring.floats()}));
    add(view("slots", slots, {kernel}, UNILS_ELEMENT_INT64));
    add(view("mask", mask, {kernel}));
  }
  // Positions [first, end) of a ring are seen.
  void add_mask(const char* name, float* mask, const KvRing& ring, int64_t first, int64_t end) {
    const int64_t slots = ring.index().capacity();
    std::fill(mask, mask + slots, kMasked);
    for (int64_t position = first; position < end; ++position) mask[ring.index().slot(position)] = 0.0f;
    add(view(name, mask, {slots}));
  }
  void give(const unils_tensor_view& output) { outputs_[output_count_++] = output; }
  Status run() const { return model_.graphs->run(graph_, inputs_, input_count_, outputs_, output_count_); }

 private:
  const GraphModel& model_;
  const char* graph_;
  unils_tensor_view inputs_[20], outputs_[4];
  int input_count_ = 0, output_count_ = 0;
};

// keys and values: (layers, W)
void write(const KvRing& ring, void* state, const unils_stream_sizes& sizes, int64_t position, const float* keys,
           const float* values) {
  for (int layer = 0; layer < sizes.depth; ++layer) {
    ring.write(state, layer, position, keys + int64_t{layer} * sizes.width, values + int64_t{layer} * sizes.width);
  }
}
// rows: (blocks, width)
void write(const RowRing& ring, void* state, int blocks, int width, int64_t position, const float* rows) {
  for (int block = 0; block < blocks; ++block, rows += width) {
    std::copy(rows, rows + width, ring.row(state, block, position));
  }
}

Status encode(const GraphModel& model, GraphWorkspace* work, const unils_row_request& request) {
  const unils_stream_sizes& sizes = model.sizes;
  const RowRing& history = model.layout.audio[request.track];
  auto* track = work->at<int64_t>(work->number);
  float *keys = work->of(0, work->keys), *values = work->of(0, work->values);
  *track = request.track;
  Call call(model, "encode");
  call.add(view("log_mel", request.log_mel, {sizes.row_values}));
  call.add_history(work, history, request.state, request.row, sizes.audio_kernel);
  call.add(view("track", track, {}, UNILS_ELEMENT_INT64));
  call.add_angles(work, request.row);
  call.give(view("rows", work->at(work->audio_rows), {sizes.audio_depth, sizes.audio_width}));
  call.give(view("keys", keys, {sizes.depth, sizes.width}));
  call.give(view("values", values, {sizes.depth, sizes.width}));
  UNILS_RETURN_IF_ERROR(call.run());
  write(history, request.state, sizes.audio_depth, sizes.audio_width, request.row, work->at(work->audio_rows));
  write(model.layout.cross[request.track], request.state, sizes, request.row, keys, values);
  return Status();
}

// The bits of a frame, and all that comes with them, into the workspace as those of session `session`.
Status make_bits(const GraphModel& model, GraphWorkspace* work, int session, const unils_step_request& request) {
  const unils_stream_sizes& sizes = model.sizes;
  const StateLayout& layout = model.layout;
  const int64_t bits = sizes.levels * sizes.bits, frame = request.frame;
  const int64_t first_row = std::max<int64_t>(0, frame - sizes.audio_window_frames + 1);
  auto* number = work->at<int64_t>(work->number);
  number[0] = frame == 0 ? 1 : 0, number[1] = request.look_ahead_self, number[2] = request.look_ahead_other;
  *work->at(work->cfg_scale) = request.cfg_scale;
  bit_thresholds(sizes.levels, sizes.bits, request.temperature, request.top_p, request.seed, frame,
                 work->at(work->thresholds));
  Call call(model, "step");
  call.add(view("bits", arena_at<float>(request.state, layout.bits), {bits}));
  call.add(view("first", number, {}, UNILS_ELEMENT_INT64));
  call.add(view("look_ahead_self", number + 1, {}, UNILS_ELEMENT_INT64));
  call.add(view("look_ahead_other", number + 2, {}, UNILS_ELEMENT_INT64));
  call.add_angles(work, frame);
  call.add(view("style_ring", layout.style, request.state));
  call.add(view("past_rings", layout.self[0].keys(request.state, 0, 0), {2, layout.self[0].floats()}));
  call.add(view("audio_self_ring", layout.cross[0], request.state));
  call.add(view("audio_other_ring", layout.cross[1], request.state));
  call.add_mask("past_mask", work->at(work->past_mask), layout.self[0],
                std::max<int64_t>(0, frame - sizes.window_frames + 1), frame);
  call.add_mask("audio_self_mask", work->at(work->audio_mask[0]), layout.cross[0], first_row,
                frame + request.look_ahead_self + 1);
  call.add_mask("audio_other_mask", work->at(work->audio_mask[1]), layout.cross[1], first_row,
                frame + request.look_ahead_other + 1);
  call.add(view("cfg_scale", work->at(work->cfg_scale), {}));
  call.add(view("thresholds", work->at(work->thresholds), {bits}));
  call.give(view("logits", work->of(session, work->logits), {bits}));
  call.give(view("next_bits", work->of(session, work->bits), {bits}));
  call.give(view("keys", work->of(session, work->keys), {2, sizes.depth, sizes.width}));
  call.give(view("values", work->of(session, work->values), {2, sizes.depth, sizes.width}));
  return call.run();
}

Status make_motion(const GraphModel& model, GraphWorkspace* work, int session, const unils_step_request& request) {
  const unils_stream_sizes& sizes = model.sizes;
  Call call(model, "decode");
  call.add(view("bits", work->of(session, work->bits), {sizes.levels * sizes.bits}));
  call.add_history(work, model.layout.decoder, request.state, request.frame, sizes.codec_kernel);
  call.give(view("motion", work->of(session, work->motion), {sizes.channels}));
  call.give(view("rows", work->of(session, work->decoder_rows), {sizes.codec_depth, sizes.codec_width}));
  return call.run();
}

// What was made becomes the session's past.
void keep(const GraphModel& model, GraphWorkspace* work, int session, const unils_step_request& request) {
  const unils_stream_sizes& sizes = model.sizes;
  const int64_t bits = sizes.levels * sizes.bits;
  const int rows = request.cfg_scale == 1.0f ? 1 : 2;
  for (int row = 0; row < rows; ++row) {
    const int64_t at = int64_t{row} * sizes.depth * sizes.width;
    write(model.layout.self[row], request.state, sizes, request.frame, work->of(session, work->keys) + at,
          work->of(session, work->values) + at);
  }
  write(model.layout.decoder, request.state, sizes.codec_depth, sizes.codec_width, request.frame,
        work->of(session, work->decoder_rows));
  const float* made = work->of(session, work->bits);
  std::copy(made, made + bits, arena_at<float>(request.state, model.layout.bits));
  const float* motion = work->of(session, work->motion);
  std::copy(motion, motion + sizes.channels, request.motion);
  const float* logits = work->of(session, work->logits);
  if (request.logits != nullptr) std::copy(logits, logits + bits, request.logits);
}

// What `body` returns, as the interface has it.
template <typename Body>
unils_status answer(unils_sentence* why, const Body& body) {
  try {
    const Status status = body();
    if (!status.ok()) std::snprintf(why->text, sizeof why->text, "%s", status.sentence().c_str());
    return status.code();
  } catch (const std::bad_alloc&) {
    std::snprintf(why->text, sizeof why->text, "there is not enough memory");
    return UNILS_ERROR_OUT_OF_MEMORY;
  } catch (const std::exception& failure) {
    std::snprintf(why->text, sizeof why->text, "%s", failure.what());
    return UNILS_ERROR_INTERNAL;
  }
}

int32_t score(unils_sentence* detail) {
  if (kCpuBackend.score(detail) <= 0) return 0;
  std::snprintf(detail->text, sizeof detail->text, "runs bundles that hold graphs, through the host");
  return 1;  // less than any other, so that nobody gets it without asking
}

unils_status model_create(const char* name, const unils_model_spec* spec, unils_backend_model** model,
                          unils_sentence* why) {
  return answer(why, [&] {
    if (spec->runner == nullptr) {
      return error(UNILS_ERROR_BACKEND,
                   "backend %s needs a graph runner of that name (unils_model_options.graph_runner), which this program "
                   "does not give",
                   name);
    }
    if (spec->graph_count == 0) {
      return Status(UNILS_ERROR_BACKEND, "this bundle holds no graphs; make them with unils export-onnx");
    }
    auto made = std::make_unique<GraphModel>(*spec);
    unils_model_spec of_host = *spec;
    of_host.threads = 1;
    of_host.precision = UNILS_FP32;
    unils_sentence sentence = {};
    const unils_status created = kCpuBackend.model_create(&of_host, &made->host, &sentence);
    if (created != UNILS_OK) return Status(created, sentence.text);
    const std::vector<unils_graph> graphs(spec->graphs, spec->graphs + spec->graph_count);
    UNILS_RETURN_IF_ERROR(Graphs::load(*spec->runner, graphs, spec->threads, &made->graphs));
    std::snprintf(why->text, sizeof why->text, "%s", made->graphs->detail().c_str());
    *model = reinterpret_cast<unils_backend_model*>(made.release());
    return Status();
  });
}

constexpr char kOnnxRuntime[] = "onnxruntime", kTensorRt[] = "tensorrt";

unils_status create_on_onnx_runtime(const unils_model_spec* spec, unils_backend_model** model, unils_sentence* why) {
  if (spec->precision == UNILS_FP32) return model_create(kOnnxRuntime, spec, model, why);
  std::snprintf(why->text, sizeof why->text,
                "backend onnxruntime computes in float32 only; load the model with precision fp32");
  return UNILS_ERROR_BACKEND;
}

// Its runner has a precision of its own.
unils_status create_on_tensorrt(const unils_model_spec* spec, unils_backend_model** model, unils_sentence* why) {
  return model_create(kTensorRt, spec, model, why);
}

void model_free(unils_backend_model* model) { delete reinterpret_cast<GraphModel*>(model); }

int64_t weight_bytes(const unils_backend_model* model) { return kCpuBackend.weight_bytes(of(model).host); }

unils_status states_create(const unils_backend_model* model, int32_t count, void** states, unils_sentence* why) {
  return kCpuBackend.states_create(of(model).host, count, states, why);
}

void states_free(const unils_backend_model* model, void* states) { kCpuBackend.states_free(of(model).host, states); }

unils_status state_read(const unils_backend_model* model, const void* state, void* block, unils_sentence* why) {
  return kCpuBackend.state_read(of(model).host, state, block, why);
}

unils_status state_write(const unils_backend_model* model, void* state, const void* block, unils_sentence* why) {
  return kCpuBackend.state_write(of(model).host, state, block, why);
}

unils_status workspace_create(const unils_backend_model* model, int32_t sessions, unils_backend_workspace** workspace,
                              unils_sentence* why) {
  return answer(why, [&] {
    auto made = std::make_unique<GraphWorkspace>(of(model).sizes, of(model).layout);
    UNILS_RETURN_IF_ERROR(made->create(of(model), sessions));
    *workspace = reinterpret_cast<unils_backend_workspace*>(made.release());
    return Status();
  });
}

void workspace_free(unils_backend_workspace* workspace) { delete reinterpret_cast<GraphWorkspace*>(workspace); }

int64_t workspace_bytes(const unils_backend_workspace* workspace) {
  const auto& work = *reinterpret_cast<const GraphWorkspace*>(workspace);
  return static_cast<int64_t>(work.memory.bytes()) + kCpuBackend.workspace_bytes(work.host);
}

unils_status reset(const unils_backend_model* model, void* state, unils_sentence* why) {
  return kCpuBackend.reset(of(model).host, state, why);
}

unils_status set_style(const unils_backend_model* model, void* state, unils_backend_workspace* workspace,
                       const float* motion, int64_t frames, unils_sentence* why) {
  return kCpuBackend.set_style(of(model).host, state, of(workspace).host, motion, frames, why);
}

unils_status run(const unils_backend_model* of_model, unils_backend_workspace* workspace, const unils_row_request* rows,
                 int32_t row_count, const unils_step_request* steps, int32_t step_count, unils_sentence* why) {
  const GraphModel& model = of(of_model);
  GraphWorkspace* work = &of(workspace);
  return answer(why, [&] {
    // A row that is made again, after a failure, is the same; a frame would follow other bits, so all are kept at the end.
    for (int32_t i = 0; i < row_count; ++i) UNILS_RETURN_IF_ERROR(encode(model, work, rows[i]));
    for (int32_t i = 0; i < step_count; ++i) {
      UNILS_RETURN_IF_ERROR(make_bits(model, work, i, steps[i]));
      UNILS_RETURN_IF_ERROR(make_motion(model, work, i, steps[i]));
    }
    for (int32_t i = 0; i < step_count; ++i) keep(model, work, i, steps[i]);
    return Status();
  });
}

}  // namespace

const unils_backend kOnnxRuntimeBackend = {UNILS_BACKEND_VERSION, kOnnxRuntime,
                                           0,  // hears rows
                                           score, create_on_onnx_runtime, model_free, weight_bytes, states_create,
                                           states_free, state_read, state_write, workspace_create, workspace_free,
                                           workspace_bytes, reset, set_style, run, nullptr, nullptr};

const unils_backend kTensorRtBackend = {UNILS_BACKEND_VERSION, kTensorRt,
                                        0,  // hears rows
                                        score, create_on_tensorrt, model_free, weight_bytes, states_create, states_free,
                                        state_read, state_write, workspace_create, workspace_free, workspace_bytes,
                                        reset, set_style, run, nullptr, nullptr};

}  // namespace unils
