// WindowEngine: a window of both tracks' audio in, as many motion frames out: family "published" (docs/published.md).
//
// Like StepEngine it knows the model and who does the arithmetic (the host's graphs), nothing of rates, clocks or
// callers. What changes between windows lies in one flat state block of the caller's; the workspace holds nothing
// between calls. It allocates nothing; the host's graphs may.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/status.h"

namespace unils {

class Model;  // model/model.h

struct WindowParams {
  float temperature = 1.0f;  // 0 is greedy
  float top_p = 1.0f;
  float cfg_scale = 1.0f;  // up to 1 the unconditional row is not computed
  uint64_t seed = 0;
  float* logits = nullptr;  // (N, d, 2), out, for tests: after guidance
  float* bits = nullptr;    // (N, d) of +-1, out, for tests
};

class WindowEngine {
 public:
  // The model, of family "published", is kept alive by the engine.
  static Status create(std::shared_ptr<const Model> model, std::unique_ptr<WindowEngine>* engine);
  virtual ~WindowEngine() = default;

  virtual size_t state_bytes() const = 0;      // 64-byte aligned block
  virtual size_t workspace_bytes() const = 0;  // 64-byte aligned block
  virtual int channels() const = 0;            // D
  virtual int window_frames() const = 0;       // F; a window's audio is F hops

  virtual void reset(void* state) const = 0;  // window 0, no style
  // Motion (frames, D) in the rig's units, of which the first F frames count; fewer are refused. Only before the first
  // window.
  virtual Status set_style(void* state, void* workspace, const float* motion, int64_t frames) const = 0;

  virtual int64_t windows(const void* state) const = 0;  // made so far
  // Makes the next window: self and other are its audio (640 F) at 16 kHz, as pushed; motion (F, D) in the rig's units,
  // finite (else an error), not yet clamped. A step that fails leaves the window to be made.
  virtual Status step(void* state, void* workspace, const float* self, const float* other, const WindowParams& params,
                      float* motion) const = 0;
};

}  // namespace unils
