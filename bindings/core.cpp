// unils_sdk._core: unils.h for Python, and nothing more. Arguments arrive checked and explained by the Python layer;
// the GIL is released whenever native code runs; a status that is not OK becomes the exception of unils_sdk.errors
// that belongs to it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#include <utility>

#include "unils/unils.h"

namespace py = pybind11;
using namespace py::literals;

namespace {

template <typename T>
using ContiguousArray = py::array_t<T, py::array::c_style>;

[[noreturn]] void raise(unils_status status, const std::string& message) {
  py::object error = py::module_::import("unils_sdk.errors").attr("from_status")(static_cast<int>(status), message);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
  throw py::error_already_set();
}

// Runs a call of unils.h without the GIL. The message is read on the same thread, before anything can replace it.
template <typename Call>
void run(Call&& call) {
  unils_status status = UNILS_OK;
  std::string message;
  {
    py::gil_scoped_release release;
    status = call();
    if (status != UNILS_OK) message = unils_last_error();
  }
  if (status != UNILS_OK) raise(status, message);
}

template <typename Struct>
Struct sized() {
  Struct value{};
  value.struct_size = sizeof(Struct);
  return value;
}

// unils_graph_runner over a Python object (unils_sdk.graph_runner.GraphRunner): `load(graphs, threads)` returns one with
// `run(graph, inputs, outputs)` and `detail`. Tensors arrive as (name, dtype, shape, address) of native memory. A runner
// whose `has_memory` is true keeps what graphs alone touch: what it loads has `allocate(size)` -> address, and `release`.
class PythonRunner {
 public:
  explicit PythonRunner(const py::object& runner) : runner_(runner), name_(py::str(runner.attr("name"))) {
    table_.struct_size = sizeof table_;
    table_.name = name_.c_str();
    table_.context = this;
    table_.load = &load;
    table_.run = &run_graph;
    table_.unload = &unload;
    if (py::bool_(py::getattr(runner, "has_memory", py::bool_(false)))) {
      table_.allocate = &allocate;
      table_.release = &release;
    }
  }
  const unils_graph_runner* table() const { return &table_; }

 private:
  static std::string text_of(const py::error_already_set& raised) noexcept {
    try {
      const std::string text = py::str(raised.value());
      return text.empty() ? std::string(py::str(raised.type().attr("__name__"))) : text;
    } catch (...) {  // str() of an exception can raise, too
      return "the runner raised an exception that has no text";
    }
  }

  // Runs Python with the GIL; what it raises becomes a status and its sentence.
  template <typename Body>
  static unils_status guarded(unils_sentence* say, Body&& body) noexcept {
    const py::gil_scoped_acquire acquire;
    std::string text;
    unils_status status = UNILS_OK;
    try {
      text = body();
    } catch (py::error_already_set& raised) {
      status = UNILS_ERROR_BACKEND;
      text = text_of(raised);
    } catch (const std::exception& failure) {
      status = UNILS_ERROR_BACKEND;
      text = failure.what();
    }
    std::snprintf(say->text, sizeof say->text, "%s", text.c_str());
    return status;
  }

  static unils_status load(void* context, const unils_graph* graphs, int32_t count, int32_t threads, void** loaded,
                           unils_sentence* say) {
    return guarded(say, [&] {
      py::dict paths;
      for (int32_t i = 0; i < count; ++i) {
        paths[graphs[i].name] = py::module_::import("os").attr("fsdecode")(py::bytes(graphs[i].path));
      }
      py::object made = static_cast<PythonRunner*>(context)->runner_.attr("load")(paths, threads);
      const std::string detail = py::str(made.attr("detail"));
      *loaded = made.release().ptr();
      return detail;
    });
  }

  static py::list tensors(const unils_tensor_view* views, int32_t count) {
    py::list list;
    for (int32_t i = 0; i < count; ++i) {
      const unils_tensor_view& view = views[i];
      py::tuple shape(view.rank);
      for (int32_t axis = 0; axis < view.rank; ++axis) shape[static_cast<size_t>(axis)] = view.shape[axis];
      list.append(py::make_tuple(view.name, view.element == UNILS_ELEMENT_INT64 ? "int64" : "float32", shape,
                                 reinterpret_cast<uintptr_t>(view.data)));
    }
    return list;
  }

  static unils_status run_graph(void* loaded, const char* graph, const unils_tensor_view* inputs, int32_t input_count,
                                const unils_tensor_view* outputs, int32_t output_count, unils_sentence* why) {
    return guarded(why, [&] {
      const py::handle made(static_cast<PyObject*>(loaded));
      made.attr("run")(graph, tensors(inputs, input_count), tensors(outputs, output_count));
      return std::string();
    });
  }

  static unils_status allocate(void* loaded, size_t bytes, void** memory, unils_sentence* why) {
    return guarded(why, [&] {
      const py::handle made(static_cast<PyObject*>(loaded));
      *memory = reinterpret_cast<void*>(py::cast<uintptr_t>(made.attr("allocate")(bytes)));
      return std::string();
    });
  }

  static void release(void* loaded, void* memory) {
    unils_sentence nobody_reads_it;
    guarded(&nobody_reads_it, [&] {
      py::handle(static_cast<PyObject*>(loaded)).attr("release")(reinterpret_cast<uintptr_t>(memory));
      return std::string();
    });
  }

  static void unload(void* loaded) {
    const py::gil_scoped_acquire acquire;
    py::handle(static_cast<PyObject*>(loaded)).dec_ref();
  }

  py::object runner_;
  std::string name_;
  unils_graph_runner table_{};
};

// The tensor of DLPack (https://dmlc.github.io/dlpack), version 0: what a "dltensor" capsule points at.
struct DlTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;  // of the element: 2 is a float
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};
struct DlManagedTensor {
  DlTensor tensor;
  void* context;
  void (*deleter)(DlManagedTensor*);
};

// float32 values on a device, dense, shared with whoever took them through DLPack.
class DeviceArray {
 public:
  DeviceArray(std::shared_ptr<void> memory, float* data, int32_t device_type, int32_t device_id,
              std::vector<int64_t> shape)
      : memory_(std::move(memory)),
        data_(data),
        device_type_(device_type),
        device_id_(device_id),
        shape_(std::move(shape)) {}

  py::tuple shape() const { return py::cast(shape_); }
  py::tuple device() const { return py::make_tuple(device_type_, device_id_); }

  // Entries [start, stop) of the first axis: a view.
  DeviceArray rows(int64_t start, int64_t stop) const {
    int64_t row = 1;
    for (size_t axis = 1; axis < shape_.size(); ++axis) row *= shape_[axis];
    std::vector<int64_t> shape = shape_;
    start = std::clamp<int64_t>(start, 0, shape_[0]);
    shape[0] = std::clamp<int64_t>(stop, start, shape_[0]) - start;
    return DeviceArray(memory_, data_ + start * row, device_type_, device_id_, std::move(shape));
  }

  // The copy was complete before anybody saw it, so no stream has to wait.
  py::capsule dlpack() const {
    struct Shared {
      DlManagedTensor managed;
      std::shared_ptr<void> memory;
      std::vector<int64_t> shape;
    };
    auto shared = std::make_unique<Shared>();
    shared->memory = memory_;
    shared->shape = shape_;
    shared->managed = {{data_, device_type_, device_id_, static_cast<int32_t>(shape_.size()), 2, 32, 1,
                        shared->shape.data(), nullptr, 0},
                       shared.get(),
                       [](DlManagedTensor* tensor) { delete static_cast<Shared*>(tensor->context); }};
    // A capsule that nobody took is still named so.
    const auto unused = [](PyObject* capsule) {
      if (PyCapsule_IsValid(capsule, "dltensor") == 0) return;
      auto* tensor = static_cast<DlManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
      tensor->deleter(tensor);
    };
    PyObject* capsule = PyCapsule_New(&shared->managed, "dltensor", unused);
    if (capsule == nullptr) throw py::error_already_set();
    static_cast<void>(shared.release());
    return py::reinterpret_steal<py::capsule>(capsule);
  }

 private:
  std::shared_ptr<void> memory_;
  float* data_;
  int32_t device_type_, device_id_;
  std::vector<int64_t> shape_;
};

class Model {
 public:
  Model(const std::string& bundle, const std::string& backend, int32_t threads, const py::object& graph_runner,
        int precision) {
    const PythonRunner runner(graph_runner);
    auto options = sized<unils_model_options>();
    options.backend = backend.c_str();
    options.threads = threads;
    options.graph_runner = runner.table();
    options.precision = static_cast<unils_precision>(precision);
    unils_model* model = nullptr;
    run([&] { return unils_model_load(bundle.c_str(), &options, &model); });
    handle_.reset(model, &unils_model_free);
    run([&] { return unils_model_get_info(model, &info_); });
  }

  const unils_model* handle() const { return handle_.get(); }
  int32_t channels() const { return info_.channels; }

  DeviceArray device_put(const ContiguousArray<float>& values) const {
    auto array = sized<unils_device_array>();
    const float* from = values.data();
    const int64_t count = values.size();
    run([&] { return unils_model_device_put(handle(), from, count, &array); });
    std::shared_ptr<void> memory(array.data, [model = handle_](void* data) { unils_model_device_free(model.get(), data); });
    return DeviceArray(std::move(memory), static_cast<float*>(array.data), array.device_type, array.device_id,
                       std::vector<int64_t>(values.shape(), values.shape() + values.ndim()));
  }

  py::dict info() const {
    py::list channels;
    for (int32_t i = 0; i < info_.channels; ++i) channels.append(unils_model_channel_name(handle(), i));
    return py::dict("family"_a = info_.family, "rig"_a = info_.rig, "backend"_a = info_.backend,
                    "backend_detail"_a = info_.backend_detail, "json"_a = info_.json, "channels"_a = channels,
                    "sample_rate"_a = info_.sample_rate, "hop_samples"_a = info_.hop_samples,
                    "frame_rate"_a = info_.frame_rate, "look_ahead_self_max"_a = info_.look_ahead_self_max,
                    "look_ahead_other_max"_a = info_.look_ahead_other_max,
                    "default_temperature"_a = info_.default_temperature, "default_top_p"_a = info_.default_top_p,
                    "default_cfg_scale"_a = info_.default_cfg_scale,
                    "default_look_ahead_self"_a = info_.default_look_ahead_self,
                    "default_look_ahead_other"_a = info_.default_look_ahead_other,
                    "parameters"_a = info_.parameters, "weight_bytes"_a = info_.weight_bytes,
                    "window_frames"_a = info_.window_frames);
  }

 private:
  std::shared_ptr<unils_model> handle_;
  unils_model_info info_ = sized<unils_model_info>();
};

// What a session is made with; `None` is the model's default.
struct SessionOptions {
  int clock;
  std::optional<int32_t> look_ahead_self, look_ahead_other;
  std::optional<float> temperature, top_p, cfg_scale;
  uint64_t seed;
  std::optional<ContiguousArray<float>> style;
  bool smoothing;
  int mode;
  std::optional<int32_t> hop_frames;
  int32_t faces;
  std::optional<ContiguousArray<float>> style_other;

  unils_session_options native(const unils_model* model) const {
    auto options = sized<unils_session_options>();
    run([&] { return unils_session_options_init(model, &options); });
    options.clock = static_cast<unils_clock>(clock);
    options.look_ahead_self = look_ahead_self.value_or(options.look_ahead_self);
    options.look_ahead_other = look_ahead_other.value_or(options.look_ahead_other);
    options.temperature = temperature.value_or(options.temperature);
    options.top_p = top_p.value_or(options.top_p);
    options.cfg_scale = cfg_scale.value_or(options.cfg_scale);
    options.seed = seed;
    options.smoothing = smoothing ? 1 : 0;
    if (style) {
      options.style = style->data();
      options.style_frames = style->shape(0);
    }
    options.mode = static_cast<unils_mode>(mode);
    options.hop_frames = hop_frames.value_or(options.hop_frames);
    options.faces = faces;
    if (style_other) {
      options.style_other = style_other->data();
      options.style_frames = style_other->shape(0);
    }
    return options;
  }
};

class Session {
 public:
  Session(const Model& model, const SessionOptions& given) : channels_(model.channels()), faces_(given.faces) {
    const unils_session_options options = given.native(model.handle());
    unils_session* session = nullptr;
    run([&] { return unils_session_create(model.handle(), &options, &session); });
    handle_.reset(session, &unils_session_free);
  }
  // handle: of a pool, which it keeps alive.
  Session(std::shared_ptr<unils_session> handle, int64_t id, int32_t channels)
      : handle_(std::move(handle)), id_(id), channels_(channels), faces_(1) {}

  int64_t id() const { return id_; }
  // Calls in flight on other threads keep the session until they return.
  void close() { handle_.reset(); }

  template <typename T>
  int64_t push_audio(int track, const ContiguousArray<T>& samples, int32_t sample_rate) {
    constexpr unils_sample_format format = std::is_same_v<T, int16_t> ? UNILS_INT16 : UNILS_FLOAT32;
    const T* data = samples.data();
    const int64_t count = samples.size();
    int64_t taken = 0;
    const auto session = open();
    run([&] {
      return unils_session_push_audio(session.get(), static_cast<unils_track>(track), data, format, count, sample_rate,
                                      &taken);
    });
    return taken;
  }

  // (values, index, pts_seconds, generation): (n, faces, D), (n,), (n,), (n,)
  py::tuple pull_frames(std::optional<int64_t> max_frames) {
    // One at least: a pull also makes frames that cannot leave yet, as smoothing has them.
    int64_t capacity = std::max<int64_t>(1, frames_ready());
    if (max_frames) capacity = std::min(capacity, *max_frames);
    ContiguousArray<float> values({capacity, int64_t{faces_}, int64_t{channels_}});
    ContiguousArray<int64_t> index(capacity);
    ContiguousArray<double> pts_seconds(capacity);
    ContiguousArray<int64_t> generation(capacity);
    unils_frames frames{values.mutable_data(), index.mutable_data(), pts_seconds.mutable_data(),
                        generation.mutable_data()};
    int64_t count = 0;
    const auto session = open();
    if (capacity > 0) run([&] { return unils_session_pull_frames(session.get(), &frames, capacity, &count); });
    if (count < capacity) {
      const py::slice made(0, count, 1);
      return py::make_tuple(values[made], index[made], pts_seconds[made], generation[made]);
    }
    return py::make_tuple(values, index, pts_seconds, generation);
  }

  int64_t frames_ready() const {
    const auto session = open();
    int64_t count = 0;
    run([&] { return unils_session_frames_ready(session.get(), &count); });
    return count;
  }

  int64_t interrupt() {
    const auto session = open();
    int64_t generation = 0;
    run([&] { return unils_session_interrupt(session.get(), &generation); });
    return generation;
  }

  void finish() {
    const auto session = open();
    run([&] { return unils_session_finish(session.get()); });
  }

  void reset() {
    const auto session = open();
    run([&] { return unils_session_reset(session.get()); });
  }

  py::bytes snapshot() const {
    const auto session = open();
    const size_t bytes = unils_session_snapshot_bytes(session.get());
    auto state = py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(bytes)));
    if (!state) throw py::error_already_set();
    char* data = PyBytes_AS_STRING(state.ptr());
    run([&] { return unils_session_snapshot(session.get(), data, bytes); });
    return state;
  }

  void restore(const py::bytes& state) {
    const auto session = open();
    const char* data = PyBytes_AS_STRING(state.ptr());
    const auto bytes = static_cast<size_t>(PyBytes_GET_SIZE(state.ptr()));
    run([&] { return unils_session_restore(session.get(), data, bytes); });
  }

  py::dict latency() const {
    auto latency = sized<unils_latency>();
    const auto session = open();
    run([&] { return unils_session_get_latency(session.get(), &latency); });
    return py::dict("hop_ms"_a = latency.hop_ms, "look_ahead_self_ms"_a = latency.look_ahead_self_ms,
                    "look_ahead_other_ms"_a = latency.look_ahead_other_ms,
                    "resampler_self_ms"_a = latency.resampler_self_ms,
                    "resampler_other_ms"_a = latency.resampler_other_ms, "block_ms"_a = latency.block_ms,
                    "smoothing_ms"_a = latency.smoothing_ms, "total_ms"_a = latency.total_ms);
  }

  py::dict stats() const {
    auto stats = sized<unils_stats>();
    const auto session = open();
    run([&] { return unils_session_get_stats(session.get(), &stats); });
    return py::dict("frames"_a = stats.frames, "step_p50_us"_a = stats.step_p50_us, "step_p95_us"_a = stats.step_p95_us,
                    "step_p99_us"_a = stats.step_p99_us, "samples_self"_a = stats.samples_self,
                    "samples_other"_a = stats.samples_other, "skew_samples"_a = stats.skew_samples,
                    "refused_samples"_a = stats.refused_samples, "silent_own_frames"_a = stats.silent_own_frames,
                    "session_bytes"_a = stats.session_bytes);
  }

  std::shared_ptr<unils_session> open() const {
    if (handle_ == nullptr) raise(UNILS_ERROR_STATE, "this session is closed");
    return handle_;
  }

 private:
  std::shared_ptr<unils_session> handle_;
  int64_t id_ = 0;
  int32_t channels_, faces_;
};

class Pool {
 public:
  Pool(const Model& model, int32_t max_sessions) : model_(model.handle()), channels_(model.channels()) {
    auto options = sized<unils_pool_options>();
    options.max_sessions = max_sessions;
    unils_pool* pool = nullptr;
    run([&] { return unils_pool_create(model.handle(), &options, &pool); });
    handle_.reset(pool, &unils_pool_free);
  }

  Session session(const SessionOptions& given) {
    const auto pool = open();
    const unils_session_options options = given.native(model_);
    unils_session* session = nullptr;
    int64_t id = 0;
    run([&] { return unils_pool_session(pool.get(), &options, &session, &id); });
    return Session({session, [pool](unils_session* gone) { unils_session_free(gone); }}, id, channels_);
  }

  // A chunk for each of some sessions: samples (sessions, n). Returns samples taken (sessions,), and of the first push
  // that failed its index, status and message, or -1; the others were made all the same.
  template <typename T>
  py::tuple push_audio(const std::vector<const Session*>& sessions, int track, const ContiguousArray<T>& samples,
                       int32_t sample_rate) {
    constexpr unils_sample_format format = std::is_same_v<T, int16_t> ? UNILS_INT16 : UNILS_FLOAT32;
    const auto pool = open();
    std::vector<std::shared_ptr<unils_session>> held;
    std::vector<unils_session*> handles;
    for (const Session* session : sessions) {
      held.push_back(session->open());
      handles.push_back(held.back().get());
    }
    ContiguousArray<int64_t> taken(static_cast<py::ssize_t>(handles.size()));
    int64_t* each_taken = taken.mutable_data();
    const T* data = samples.data();
    const int64_t each = samples.shape(1);
    int32_t failed = -1;
    unils_status status = UNILS_OK;
    std::string message;
    if (!handles.empty()) {
      const py::gil_scoped_release release;
      status = unils_pool_push_audio(pool.get(), handles.data(), static_cast<int32_t>(handles.size()),
                                     static_cast<unils_track>(track), data, format, each, sample_rate, each_taken,
                                     &failed);
      if (status != UNILS_OK) message = unils_last_error();
    }
    if (status != UNILS_OK && failed < 0) raise(status, message);
    return py::make_tuple(taken, failed, static_cast<int>(status), message);
  }

  // (session, values, index, pts_seconds, generation): (n,), (n, D), (n,), (n,), (n,)
  py::tuple pull(std::optional<int64_t> max_frames) {
    const auto pool = open();
    // One at least: a pull also makes frames that cannot leave yet, as smoothing has them.
    int64_t capacity = 0;
    run([&] { return unils_pool_frames_ready(pool.get(), &capacity); });
    capacity = std::max<int64_t>(1, capacity);
    if (max_frames) capacity = std::min(capacity, *max_frames);
    ContiguousArray<float> values({capacity, int64_t{channels_}});
    ContiguousArray<int64_t> session(capacity), index(capacity), generation(capacity);
    ContiguousArray<double> pts_seconds(capacity);
    const unils_pool_frames frames{{values.mutable_data(), index.mutable_data(), pts_seconds.mutable_data(),
                                    generation.mutable_data()},
                                   session.mutable_data()};
    int64_t count = 0;
    if (capacity > 0) run([&] { return unils_pool_pull(pool.get(), &frames, capacity, &count); });
    const py::slice made(0, count, 1);
    return py::make_tuple(session[made], values[made], index[made], pts_seconds[made], generation[made]);
  }

  py::dict stats() const {
    const auto pool = open();
    auto stats = sized<unils_pool_stats>();
    run([&] { return unils_pool_get_stats(pool.get(), &stats); });
    return py::dict("max_sessions"_a = stats.max_sessions, "sessions"_a = stats.sessions, "bytes"_a = stats.bytes);
  }

  // Its memory goes with its last session.
  void close() { handle_.reset(); }

 private:
  std::shared_ptr<unils_pool> open() const {
    if (handle_ == nullptr) raise(UNILS_ERROR_STATE, "this pool is closed");
    return handle_;
  }

  const unils_model* model_;  // the Python layer keeps it
  std::shared_ptr<unils_pool> handle_;
  int32_t channels_;
};

py::list backends() {
  py::list result;
  for (int32_t i = 0; i < unils_backend_count(); ++i) {
    auto info = sized<unils_backend_info>();
    run([&] { return unils_backend_get(i, &info); });
    result.append(py::make_tuple(info.name, info.score, info.detail, info.plugin));
  }
  return result;
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "unils.h for Python; use unils_sdk instead.";
  m.def("version", &unils_version);
  m.def("abi_version", &unils_abi_version);
  m.def("backends", &backends,
        "[(name, score, detail, path of its plug-in or None)]; score 0: cannot run here, and detail says why.");
  m.def("plugin_folder", [](const std::string& folder) { run([&] { return unils_plugin_folder(folder.c_str()); }); },
        "folder"_a);

  py::class_<Model>(m, "Model")
      .def(py::init<const std::string&, const std::string&, int32_t, const py::object&, int>(), "bundle"_a, "backend"_a,
           "threads"_a, "graph_runner"_a, "precision"_a = int{UNILS_FP32})
      .def("info", &Model::info)
      .def("device_put", &Model::device_put, py::arg("values").noconvert());

  py::class_<DeviceArray>(m, "DeviceArray",
                          "float32 values on a device, for anything that takes DLPack: `torch.from_dlpack(array)`.")
      .def_property_readonly("shape", &DeviceArray::shape)
      .def("rows", &DeviceArray::rows, "start"_a, "stop"_a, "Entries [start, stop) of the first axis, as a view.")
      .def("__dlpack_device__", &DeviceArray::device)
      .def(
          "__dlpack__", [](const DeviceArray& array, const py::kwargs&) { return array.dlpack(); },
          "A capsule of DLPack; the values are complete, so no stream has to wait.");

  py::class_<SessionOptions>(m, "SessionOptions")
      .def(py::init<int, std::optional<int32_t>, std::optional<int32_t>, std::optional<float>, std::optional<float>,
                    std::optional<float>, uint64_t, std::optional<ContiguousArray<float>>, bool, int,
                    std::optional<int32_t>, int32_t, std::optional<ContiguousArray<float>>>(),
           "clock"_a, "look_ahead_self"_a, "look_ahead_other"_a, "temperature"_a, "top_p"_a, "cfg_scale"_a, "seed"_a,
           "style"_a, "smoothing"_a, "mode"_a, "hop_frames"_a, "faces"_a, "style_other"_a);

  py::class_<Session>(m, "Session")
      .def(py::init<const Model&, const SessionOptions&>(), "model"_a, "options"_a)
      .def("id", &Session::id)
      .def("close", &Session::close)
      .def("push_audio", &Session::push_audio<int16_t>, "track"_a, py::arg("samples").noconvert(), "sample_rate"_a)
      .def("push_audio", &Session::push_audio<float>, "track"_a, py::arg("samples").noconvert(), "sample_rate"_a)
      .def("pull_frames", &Session::pull_frames, "max_frames"_a)
      .def("frames_ready", &Session::frames_ready)
      .def("interrupt", &Session::interrupt)
      .def("finish", &Session::finish)
      .def("reset", &Session::reset)
      .def("snapshot", &Session::snapshot)
      .def("restore", &Session::restore, "state"_a)
      .def("latency", &Session::latency)
      .def("stats", &Session::stats);

  py::class_<Pool>(m, "Pool")
      .def(py::init<const Model&, int32_t>(), "model"_a, "max_sessions"_a)
      .def("session", &Pool::session, "options"_a)
      .def("push_audio", &Pool::push_audio<int16_t>, "sessions"_a, "track"_a, py::arg("samples").noconvert(),
           "sample_rate"_a)
      .def("push_audio", &Pool::push_audio<float>, "sessions"_a, "track"_a, py::arg("samples").noconvert(),
           "sample_rate"_a)
      .def("pull", &Pool::pull, "max_frames"_a)
      .def("stats", &Pool::stats)
      .def("close", &Pool::close);
}
