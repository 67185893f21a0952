// WindowEngine: a window of both tracks' audio in, the next frames of one or two faces out: family "published"
// (docs/published.md).
//
// Every step samples a whole window of F frames, of which `hop_frames` are new. In the model's own windows all F are;
// in rolling mode the window begins with frames that were shown already, and ends with frames that are thrown away.
// Like StepEngine it knows the model and who does the arithmetic (the host's graphs), nothing of rates, clocks or
// callers. What changes between steps lies in one flat state block of the caller's; the workspace, and what the graphs
// hand to each other in memory of their own, hold nothing between calls. It allocates as it is made, not later; the
// host's graphs may.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/status.h"

namespace unils {

class Model;  // model/model.h

struct WindowShape {
  int faces = 1;       // 2: the face of `self`, then that of `other`, who hears the tracks the other way round
  int hop_frames = 1;  // h: frames that a step makes, 1..F
  int look_ahead = 0;  // L: fewest frames of a window behind the new ones; h + L <= F
};

struct WindowParams {
  float temperature = 1.0f;  // 0 is greedy
  float top_p = 1.0f;
  float cfg_scale = 1.0f;  // up to 1 the unconditional rows are not computed
  uint64_t seed = 0;       // of the first face; the second one's is one higher
};

class WindowEngine {
 public:
  // The model, of family "published", is kept alive by the engine.
  static Status create(std::shared_ptr<const Model> model, const WindowShape& shape,
                       std::unique_ptr<WindowEngine>* engine);
  virtual ~WindowEngine() = default;

  virtual size_t state_bytes() const = 0;      // 64-byte aligned block
  virtual size_t workspace_bytes() const = 0;  // 64-byte aligned block
  virtual size_t graph_bytes() const = 0;      // its own, where the graphs keep theirs

  virtual void reset(void* state) const = 0;  // frame 0, no style
  // Motion (frames, D) in the rig's units, of which the first F frames count; finite, and not fewer. Before the first
  // step.
  virtual Status set_style(void* state, void* workspace, int face, const float* motion) const = 0;

  virtual int64_t steps(const void* state) const = 0;  // made so far, h frames each
  // Where the window of the next step begins: frames [window_begin, window_begin + F), of which those before
  // steps * h have been shown.
  virtual int64_t window_begin(const void* state) const = 0;
  // Makes the next h frames: self and other are the audio of their window (640 F) at 16 kHz, as pushed; motion
  // (h, faces, D) in the rig's units, finite (else an error), not yet clamped. A step that fails is to be made again.
  virtual Status step(void* state, void* workspace, const float* self, const float* other, const WindowParams& params,
                      float* motion) const = 0;
};

}  // namespace unils
