// FrameMaker: from the audio of a session's tracks to its next frames. One for each family of models; the session is the
// same for all.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "core/arena.h"
#include "core/status.h"
#include "session/session_spec.h"
#include "session/tracks.h"

namespace unils {

// Memory of an engine that sessions share, as those of a pool do.
struct EngineHome {
  void* block;               // of this session
  StepWorkspace* workspace;  // of all of them,
  std::mutex* mutex;         // for whoever has locked this
};

class FrameMaker {
 public:
  // Adds what the maker holds to the session's memory: `state` is what a snapshot copies, `scratch` is what it need not.
  // home: where the engine's memory is when it is not the session's own.
  // UNILS_ERROR_INVALID_ARGUMENT, UNILS_ERROR_BUNDLE, UNILS_ERROR_OUT_OF_MEMORY, UNILS_ERROR_BACKEND.
  static Status create(const SessionSpec& spec, const unils_session_options& options, const EngineHome* home,
                       ArenaLayout* state, ArenaLayout* scratch, std::unique_ptr<FrameMaker>* maker);
  virtual ~FrameMaker() = default;
  // Other options, in the memory that the first ones asked for. UNILS_ERROR_INVALID_ARGUMENT when an option, or the
  // family, does not allow it.
  virtual Status reopen(const unils_session_options& options, ArenaLayout* state, ArenaLayout* scratch);

  // The memory laid out above, once, before anything else.
  virtual void bind(void* state, void* scratch) = 0;
  // Frame 0. styles: motion (options.style_frames, D) of each face, or NULL; the state is zeroed.
  virtual Status start_over(const float* const* styles) = 0;
  // Makes frames [frame, frame + n) into motion (n, faces, D), not yet clamped, with n the spec's block_frames(), and
  // consumes the audio that no later frame needs. Audio that is not there is silence. When it fails, it can be called
  // again.
  virtual Status make(int64_t frame, Tracks* tracks, float* motion) = 0;
  // make() in two halves, for frames of several sessions that are stepped together: the first leaves the request, the
  // second follows when it has been answered. workspace: of the thread that calls.
  virtual Status begin(int64_t frame, Tracks* tracks, StepWorkspace& workspace, StepRequest* request);
  virtual void end(int64_t frame, Tracks* tracks);
  // Forgets what was heard of a track from `frame`, the next to be made, on.
  virtual Status forget(unils_track track, int64_t frame, Tracks* tracks) = 0;
  // Whether the bound state can be that of a session whose next frame is `frame`.
  virtual bool plausible(int64_t frame, const Tracks& tracks) const = 0;
  virtual size_t engine_bytes() const = 0;  // of the engine's part of the state
  // What a snapshot holds besides the state.
  virtual size_t block_bytes() const { return 0; }
  virtual Status read_block(void*) const { return Status(); }
  virtual Status write_block(const void*) { return Status(); }
  virtual size_t bytes() const = 0;         // held outside the session's memory
};

}  // namespace unils
