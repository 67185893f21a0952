#include "session/frame_maker.h"

#include "session/stream_maker.h"
#include "session/window_maker.h"

namespace unils {

Status FrameMaker::create(SessionSpec* spec, const unils_session_options& options, ArenaLayout* state,
                          ArenaLayout* scratch, std::unique_ptr<FrameMaker>* maker) {
  if (spec->window_engine != nullptr) {
    UNILS_RETURN_IF_ERROR(WindowMaker::check(*spec, options));
    *maker = std::make_unique<WindowMaker>(spec, options, state, scratch);
  } else {
    UNILS_RETURN_IF_ERROR(StreamMaker::check(*spec));
    *maker = std::make_unique<StreamMaker>(spec, options, state, scratch);
  }
  return Status();
}

}  // namespace unils
