#include "session/frame_maker.h"

#include "session/stream_maker.h"
#include "session/window_maker.h"

namespace unils {

Status FrameMaker::create(const SessionSpec& spec, const unils_session_options& options, const EngineHome* home,
                          ArenaLayout* state, ArenaLayout* scratch, std::unique_ptr<FrameMaker>* maker) {
  if (spec.published != nullptr) return WindowMaker::create(spec, options, state, scratch, maker);
  return StreamMaker::create(spec, options, home, state, scratch, maker);
}

// Only sessions that step by the frame have use for what follows.
static Status not_together() {
  return Status(UNILS_ERROR_INVALID_ARGUMENT,
                "a pool steps sessions of family stream; in family published a session of its own makes whole windows, "
                "of two faces at once if need be");
}

Status FrameMaker::reopen(const unils_session_options&, ArenaLayout*, ArenaLayout*) { return not_together(); }

Status FrameMaker::begin(int64_t, Tracks*, StepWorkspace&, StepRequest*) { return not_together(); }

void FrameMaker::end(int64_t, Tracks*) {}

}  // namespace unils
