// StepEngine: hops of audio of two tracks in, one motion frame a step out.
//
// It knows the model (immutable, shared) and a backend, nothing of sample rates, clocks or callers. What changes lies in
// two places: what the engine counts, plain data that its caller keeps, and a block that the backend keeps where it
// computes. Workspaces hold nothing between calls. Only the functions named create_* allocate.
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

// Where the state of one session lies.
struct StepState {
  void* counts = nullptr;  // (counts_bytes()), on the host, 64-byte aligned: a snapshot copies it
  void* block = nullptr;   // of StepStates
};

// What an engine over a backend counts of a session; first in StepState::counts.
struct StepCounts {
  int64_t frame;             // next to be made
  int64_t rows[2];           // pushed, by track
  int64_t waiting[2];        // by track: what the last row, which is not encoded yet, is; 0 when none waits
  int64_t furthest_rows[2];  // the most that were ever pushed: what bounds a rewind
  int64_t guided_frames;     // made with guidance: all or none of them
};

// Blocks of some sessions, where the backend wants them.
class StepStates {
 public:
  virtual ~StepStates() = default;
  virtual void* block(int state) const = 0;
};

// What calls work in; calls that share one come one at a time.
class StepWorkspace {
 public:
  virtual ~StepWorkspace() = default;
  virtual int64_t bytes() const = 0;
};

// A frame to be made of one of many states.
struct StepRequest {
  StepState state;
  const StepParams* params = nullptr;
  float* motion = nullptr;  // (D), out
  Status status;            // out
};

class StepEngine {
 public:
  static constexpr int kMaxRewindRows = 16;

  // The model is kept alive by the engine. UNILS_ERROR_BUNDLE when the model's features do not fit its weights.
  static Status create(std::shared_ptr<const Model> model, std::shared_ptr<const StepEngine>* engine);
  virtual ~StepEngine() = default;

  virtual size_t counts_bytes() const = 0;
  virtual size_t block_bytes() const = 0;  // the same on every backend
  virtual int hop_samples() const = 0;
  virtual int row_values() const = 0;  // log-mel values a row: steps per hop x mels, time-major
  virtual int channels() const = 0;    // D

  // For `count` states; each must be reset before its first use. UNILS_ERROR_OUT_OF_MEMORY, UNILS_ERROR_BACKEND.
  virtual Status create_states(int count, std::unique_ptr<StepStates>* states) const = 0;
  // For batches of up to `states` states.
  virtual Status create_workspace(int states, std::unique_ptr<StepWorkspace>* workspace) const = 0;
  // A block as it is, to the host and from it, for any backend.
  virtual Status read_block(const void* block, void* bytes) const = 0;
  virtual Status write_block(void* block, const void* bytes) const = 0;

  virtual Status reset(StepState state) const = 0;  // frame 0, no audio, no style
  // Motion (frames, D) in the rig's units, of 1 to 20 seconds. Only before the first step.
  virtual Status set_style(StepState state, StepWorkspace& workspace, const float* motion, int64_t frames) const = 0;

  virtual int64_t frame(StepState state) const = 0;              // index of the next frame to be made
  virtual int64_t rows(StepState state, Track track) const = 0;  // rows pushed so far on a track
  // Appends a row: one hop (hop_samples) in [-1, 1]. Its keys and values are computed once: by the step that first needs
  // them, with those of the other track and of the states that step with it, in one pass over the weights, or when the
  // next row comes before that.
  virtual Status push_hop(StepState state, StepWorkspace& workspace, Track track, const float* hop) const = 0;
  // The same, of raw natural-log mel energies (row_values) that were made elsewhere.
  virtual Status push_row(StepState state, StepWorkspace& workspace, Track track, const float* log_mel) const = 0;
  // Forgets rows >= row; at most kMaxRewindRows back.
  virtual Status rewind_rows(StepState state, Track track, int64_t row) const = 0;
  // Makes the next frame of each of `count` requests, no two of the same state: motion (D) in the rig's units, finite
  // (else an error), not yet clamped. A frame does not depend on which others are made with it (on `cpu` bit for bit). A
  // request that fails leaves its frame to be made and does not touch the others. Whether cfg_scale is 1 must not change
  // between the frames of a state.
  virtual void step_batch(StepRequest* requests, int count, StepWorkspace& workspace) const = 0;
  // One frame.
  Status step(StepState state, StepWorkspace& workspace, const StepParams& params, float* motion) const {
    StepRequest request;
    request.state = state, request.params = &params, request.motion = motion;
    step_batch(&request, 1, workspace);
    return std::move(request.status);
  }
};

}  // namespace unils
