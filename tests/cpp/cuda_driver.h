// What tests of the cuda backend share: memory on the device, a random model on any backend, and sessions on it that are
// told by anyone what they hear.
#pragma once
#include <cuda_runtime.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bundle_writer.h"
#include "check.h"
#include "core/arena.h"
#include "engine/state_layout.h"
#include "features/framer.h"
#include "unils/backend.h"

extern "C" const unils_backend* unils_backend_plugin(uint32_t version);

namespace unils {

#define CHECK_CUDA(expression)                                                           \
  do {                                                                                   \
    const cudaError_t check_code = (expression);                                         \
    if (!CHECK(check_code == cudaSuccess && #expression)) {                              \
      std::fprintf(stderr, "  %s: %s\n", #expression, cudaGetErrorString(check_code));   \
    }                                                                                    \
  } while (false)

// Turns threads and blocks of the device that is played on the host into another order; a real one has its own.
inline void permute_threads([[maybe_unused]] unsigned seed) {
#if defined(UNILS_CUDA_ON_HOST)
  cuda_on_host::permute(seed);
#endif
}

// Values on the device.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(size_t count) : count_(count) {
    void* memory = nullptr;
    CHECK_CUDA(cudaMalloc(&memory, count * sizeof(T)));
    memory_ = static_cast<T*>(memory);
  }
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) { write(values); }
  ~OnDevice() { cudaFree(memory_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  T* get() const { return memory_; }
  void write(const std::vector<T>& values) {
    CHECK_CUDA(cudaMemcpy(memory_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    CHECK_CUDA(cudaDeviceSynchronize());  // streams of tests do not wait for it
  }
  // After whatever runs on the device.
  std::vector<T> read() const {
    CHECK_CUDA(cudaDeviceSynchronize());
    std::vector<T> values(count_);
    CHECK_CUDA(cudaMemcpy(values.data(), memory_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  size_t count_;
  T* memory_ = nullptr;
};

// A stream for one test.
class TestStream {
 public:
  TestStream() { CHECK_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~TestStream() { cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

inline std::vector<float> random_floats(size_t count, unsigned seed, float deviation = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

inline const unils_features kFeatures = {16000, 640, 400, 160, 512, 64, 60.0, 7600.0, 1e-5};

// The hop of a track of a session, that anyone can compute: noise that grows and dies away, as speech does.
inline std::vector<float> made_up_hop(int session, int track, int64_t row) {
  const auto seed = static_cast<unsigned>(row * 64 + session * 2 + track + 1);
  const float loudness = 0.3f * std::pow(std::sin(static_cast<float>(row + 3 * session + 7 * track) * 0.3f), 2.0f);
  return random_floats(640, seed, loudness);
}

inline unils_backend_model* create_model(const unils_backend& backend, const BundleWriter& bundle,
                                         unils_precision precision = UNILS_FP32) {
  std::vector<unils_tensor> tensors;
  for (const BundleWriter::Tensor& tensor : bundle.tensors) {
    tensors.push_back(
        {tensor.shape.name.c_str(), tensor.values.data(), {tensor.shape.shape[0], tensor.shape.shape[1]}});
  }
  unils_model_spec spec = {};
  spec.sizes = &bundle.sizes, spec.features = &kFeatures;
  spec.gains = bundle.gains.data();
  spec.tensors = tensors.data(), spec.tensor_count = static_cast<int32_t>(tensors.size());
  spec.threads = 1, spec.precision = precision;
  unils_backend_model* model = nullptr;
  unils_sentence why = {};
  if (!CHECK(backend.model_create(&spec, &model, &why) == UNILS_OK)) std::fprintf(stderr, "  %s\n", why.text);
  return model;
}

struct Talk {
  int look_ahead[2] = {1, 0};
  float temperature = 1.0f, top_p = 0.97f, cfg_scale = 1.5f;
  uint64_t seed = 0;
  int64_t style_frames = 0;
};
inline Talk talk_of(int i) {
  Talk talk;
  talk.look_ahead[0] = i * 3 % 9, talk.look_ahead[1] = i % 4;
  talk.temperature = i % 3 == 0 ? 0.0f : 1.0f;
  talk.cfg_scale = i % 4 == 1 ? 1.0f : i % 4 == 2 ? 0.0f : 1.5f;
  talk.seed = 0x123456789abcdef0u + static_cast<uint64_t>(i);
  talk.style_frames = i % 5 == 2 ? 25 + i : 0;
  return talk;
}

struct Made {
  std::vector<float> motion, logits;
};

// Sessions of one model on one backend. `hops`: they hear hops; otherwise log-mel rows that a Framer makes.
class Sessions {
 public:
  Sessions(const unils_backend& backend, const BundleWriter& bundle, const std::vector<Talk>& talks, bool hops,
           unils_precision precision = UNILS_FP32)
      : backend(backend), sizes(bundle.sizes), layout(sizes, kFeatures), hops_(hops), talks_(talks),
        model(create_model(backend, bundle, precision)) {
    const auto count = static_cast<int32_t>(talks.size());
    ok(backend.states_create(model, count, &states_, &why));
    ok(backend.workspace_create(model, count, &workspace, &why));
    frames_.resize(talks.size());
    for (std::vector<int64_t>& rows : rows_) rows.resize(talks.size());
    const Framer framer = make_framer();
    for (std::vector<std::vector<float>>& histories : histories_) {
      histories.assign(talks.size(), std::vector<float>(framer.state_floats()));
    }
    for (int i = 0; i < count; ++i) reset(i);
  }
  ~Sessions() {
    backend.workspace_free(workspace);
    backend.states_free(model, states_);
    backend.model_free(model);
  }
  Sessions(const Sessions&) = delete;
  Sessions& operator=(const Sessions&) = delete;

  int count() const { return static_cast<int>(talks_.size()); }
  int64_t frame(int i) const { return frames_[static_cast<size_t>(i)]; }
  void* state(int i) const { return static_cast<char*>(states_) + static_cast<size_t>(i) * layout.bytes; }

  void reset(int i) {
    frames_[static_cast<size_t>(i)] = 0;
    for (std::vector<int64_t>& rows : rows_) rows[static_cast<size_t>(i)] = 0;
    ok(backend.reset(model, state(i), &why));
    const int64_t frames = talks_[static_cast<size_t>(i)].style_frames;
    if (frames == 0) return;
    const std::vector<float> clip =
        random_floats(static_cast<size_t>(frames * sizes.channels), static_cast<unsigned>(i) + 900, 0.3f);
    ok(backend.set_style(model, state(i), workspace, clip.data(), frames, &why));
  }

  // Rows until the next frame can be made are heard, all but the last of each track in calls of their own; then that
  // frame is made of every session named. OK, or what `run` said. in: NULL for the sessions' own workspace.
  unils_status step(const std::vector<int>& named, std::vector<Made>* made, unils_backend_workspace* in = nullptr) {
    for (;;) {
      std::vector<unils_row_request> rows;
      std::vector<std::vector<float>> sounds;
      sounds.reserve(2 * named.size());
      bool more = false;
      for (const int i : named) {
        const auto at = static_cast<size_t>(i);
        for (int track = 0; track < 2; ++track) {
          const int64_t needed = frames_[at] + 1 + talks_[at].look_ahead[track];
          if (rows_[track][at] >= needed) continue;
          rows.push_back(row_request(i, track, rows_[track][at], &sounds));
          more = more || rows_[track][at] + 1 < needed;
        }
      }
      std::vector<unils_step_request> steps;
      made->assign(named.size(), Made());
      for (size_t n = 0; n < named.size() && !more; ++n) {
        const auto at = static_cast<size_t>(named[n]);
        const Talk& talk = talks_[at];
        (*made)[n].motion.resize(static_cast<size_t>(sizes.channels));
        (*made)[n].logits.resize(static_cast<size_t>(sizes.levels * sizes.bits));
        steps.push_back({state(named[n]), frames_[at], talk.look_ahead[0], talk.look_ahead[1], talk.temperature,
                         talk.top_p, talk.cfg_scale, talk.seed, (*made)[n].motion.data(), (*made)[n].logits.data()});
      }
      const unils_status status =
          backend.run(model, in != nullptr ? in : workspace, rows.data(), static_cast<int32_t>(rows.size()), steps.data(),
                      static_cast<int32_t>(steps.size()), &why);
      if (status != UNILS_OK) return status;
      for (const unils_row_request& row : rows) ++rows_[row.track][index_of(row.state)];
      for (const unils_step_request& step : steps) ++frames_[index_of(step.state)];
      if (!more) return UNILS_OK;
    }
  }
  std::vector<Made> step(const std::vector<int>& named) {
    std::vector<Made> made;
    ok(step(named, &made));
    return made;
  }

  std::vector<char> block(int i) {
    std::vector<char> bytes(layout.bytes);
    ok(backend.state_read(model, state(i), bytes.data(), &why));
    return bytes;
  }
  std::vector<float> bits(int i) {
    const std::vector<char> bytes = block(i);
    const float* at = arena_at<float>(bytes.data(), layout.bits);
    return std::vector<float>(at, at + sizes.levels * sizes.bits);
  }
  // Goes on as session `i` of another backend would.
  void take_over(int i, Sessions* other) {
    const auto at = static_cast<size_t>(i);
    std::vector<char> bytes = other->block(i);
    frames_[at] = other->frames_[at];
    for (int track = 0; track < 2; ++track) {
      rows_[track][at] = other->rows_[track][at];
      // Where rows are made outside of the backend, so is what a hop leaves behind.
      float* history = arena_at<float>(bytes.data(), layout.history[track]);
      std::vector<float>& outside = histories_[track][at];
      if (!other->hops_) std::copy(other->histories_[track][at].begin(), other->histories_[track][at].end(), history);
      outside.assign(history, history + outside.size());
    }
    ok(backend.state_write(model, state(i), bytes.data(), &why));
  }

  void ok(unils_status status) {
    if (!CHECK(status == UNILS_OK)) std::fprintf(stderr, "  %s\n", why.text);
  }

  const unils_backend& backend;
  const unils_stream_sizes sizes;
  const StateLayout layout;
  unils_sentence why = {};

 private:
  static Framer make_framer() { return Framer(LogMelConfig(), kFeatures.hop_samples); }
  size_t index_of(const void* state) const {
    return static_cast<size_t>(static_cast<const char*>(state) - static_cast<const char*>(states_)) / layout.bytes;
  }
  unils_row_request row_request(int i, int track, int64_t row, std::vector<std::vector<float>>* sounds) {
    unils_row_request request = {};
    request.state = state(i), request.track = track == 0 ? UNILS_TRACK_SELF : UNILS_TRACK_OTHER, request.row = row;
    std::vector<float> hop = made_up_hop(i, track, row);
    if (hops_) {
      sounds->push_back(hop);
      request.hop = sounds->back().data();
      return request;
    }
    const Framer framer = make_framer();
    std::vector<float> line(framer.scratch_floats()), values(static_cast<size_t>(framer.row_values()));
    std::vector<double> scratch(framer.scratch_doubles());
    framer.row(histories_[track][static_cast<size_t>(i)].data(), line.data(), scratch.data(), row, hop.data(),
               values.data());
    sounds->push_back(values);
    request.log_mel = sounds->back().data();
    return request;
  }

  bool hops_;
  std::vector<Talk> talks_;
  std::vector<int64_t> frames_, rows_[2];
  std::vector<std::vector<float>> histories_[2];
  void* states_ = nullptr;

 public:
  unils_backend_model* model = nullptr;
  unils_backend_workspace* workspace = nullptr;
};

inline float furthest(const std::vector<float>& a, const std::vector<float>& b) {
  CHECK(a.size() == b.size());
  float most = 0.0f;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!(std::fabs(a[i] - b[i]) <= 1e30f)) return INFINITY;  // NaN is as far as can be
    most = std::max(most, std::fabs(a[i] - b[i]));
  }
  return most;
}

}  // namespace unils
