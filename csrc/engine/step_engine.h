// StepEngine: log-mel rows of two tracks in, one motion frame a step out.
//
// It knows the model (immutable, shared) and a backend, nothing of sample rates, clocks or callers. Everything that
// changes lives in one flat, plain-data state block that the caller owns (so a snapshot is a memcpy, on any backend);
// scratch memory is separate and holds nothing between calls. No call allocates.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "core/status.h"

namespace unils {

class Model;  // model/model.h: config + weights, immutable

enum class Track : int { kSelf = 0, kOther = 1 };

struct StepParams {
  int look_ahead_self = 0;  // frames; the session has pushed exactly rows [0, t + 1 + look_ahead) of each track
  int look_ahead_other = 0;
  float temperature = 1.0f;  // 0 is greedy
  float top_p = 1.0f;
  float cfg_scale = 1.0f;  // 1: the unconditional row is not computed
  uint64_t seed = 0;
  float* logits = nullptr;  // (levels * bits), out, for tests: the frame's logits after guidance
};

// A frame to be made of one of many states.
struct StepRequest {
  void* state = nullptr;
  const StepParams* params = nullptr;
  float* motion = nullptr;  // (D), out
  Status status;            // out
};

class StepEngine {
 public:
  static constexpr int kMaxRewindRows = 16;

  // The model is kept alive by the engine.
  static Status create(std::shared_ptr<const Model> model, std::unique_ptr<StepEngine>* engine);
  virtual ~StepEngine() = default;

  virtual size_t state_bytes() const = 0;                // 64-byte aligned block
  virtual size_t workspace_bytes(int states) const = 0;  // 64-byte aligned block, for batches of up to `states` states
  virtual int row_values() const = 0;                    // log-mel values a row: steps per hop x mels, time-major
  virtual int channels() const = 0;                      // D

  virtual void reset(void* state) const = 0;  // frame 0, no audio, no style
  // Motion (frames, D) in the rig's units; frames == 0 is "no style". Only before the first step.
  virtual Status set_style(void* state, void* workspace, const float* motion, int64_t frames) const = 0;

  virtual int64_t frame(const void* state) const = 0;              // index of the next frame to be made
  virtual int64_t rows(const void* state, Track track) const = 0;  // rows pushed so far on a track
  // Appends one row (raw natural-log mel energies; the engine normalises). Its keys and values are computed once: by the
  // step that first needs them, with those of the other track and of the states that step with it, in one pass over the
  // weights, or when the next row comes before that.
  virtual Status push_row(void* state, void* workspace, Track track, const float* log_mel) const = 0;
  // Forgets rows >= row; at most kMaxRewindRows back.
  virtual Status rewind_rows(void* state, Track track, int64_t row) const = 0;
  // Makes the next frame of each of `count` requests, no two of the same state: motion (D) in the rig's units, finite
  // (else an error), not yet clamped. A frame is the same, bit for bit, whichever others are made with it. A request that
  // fails leaves its frame to be made and does not touch the others. Whether cfg_scale is 1 must not change between the
  // frames of a state.
  virtual void step_batch(StepRequest* requests, int count, void* workspace) const = 0;
  // One frame.
  Status step(void* state, void* workspace, const StepParams& params, float* motion) const {
    StepRequest request;
    request.state = state, request.params = &params, request.motion = motion;
    step_batch(&request, 1, workspace);
    return std::move(request.status);
  }
};

}  // namespace unils
