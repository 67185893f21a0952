#include "session/frame_maker.h"

#include "session/stream_maker.h"
#include "session/window_maker.h"

namespace unils {

Status FrameMaker::create(SessionSpec* spec, const unils_session_options& options, ArenaLayout* state,
                          ArenaLayout* scratch, std::unique_ptr<FrameMaker>* maker) {
  if (spec->published != nullptr) return WindowMaker::create(spec, options, state, scratch, maker);
  UNILS_RETURN_IF_ERROR(StreamMaker::check(*spec, options));
  *maker = std::make_unique<StreamMaker>(spec, options, state, scratch);
  return Status();
}

}  // namespace unils
