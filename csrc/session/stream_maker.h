// StreamMaker: family "stream", a frame a hop. Rows beyond a track's audio (look-ahead, or own audio that is missing
// under clock OTHER) are made of silence and made again when audio comes.
#pragma once
#include <memory>

#include "engine/step_engine.h"
#include "features/framer.h"
#include "session/frame_maker.h"

namespace unils {

class StreamMaker final : public FrameMaker {
 public:
  static Status check(const SessionSpec& spec, const unils_session_options& options);
  StreamMaker(SessionSpec* spec, const unils_session_options& options, ArenaLayout* state, ArenaLayout* scratch);

  void bind(void* state, void* scratch) override {
    state_ = state;
    scratch_ = scratch;
  }
  Status reopen(const unils_session_options& options, ArenaLayout* state, ArenaLayout* scratch) override;
  Status start_over(const float* const* styles) override;
  Status make(int64_t frame, Tracks* tracks, float* motion) override;
  Status begin(int64_t frame, Tracks* tracks, StepRequest* request) override;
  void end(int64_t frame, Tracks* tracks) override;
  Status forget(unils_track track, int64_t frame, Tracks* tracks) override;
  bool plausible(int64_t frame, const Tracks& tracks) const override;
  size_t engine_bytes() const override { return engine_->state_bytes(); }
  size_t bytes() const override { return sizeof *this + framer_.bytes(); }

 private:
  int look_ahead(unils_track track) const {
    return track == UNILS_TRACK_SELF ? params_.look_ahead_self : params_.look_ahead_other;
  }
  void* engine_state() const { return arena_at<char>(state_, engine_offset_); }
  void* workspace() const { return arena_at<char>(scratch_, workspace_); }
  static Status check(const unils_session_options& options);
  void lay_out(const unils_session_options& options, ArenaLayout* state, ArenaLayout* scratch);
  Status hear(unils_track track, int64_t frame, Tracks* tracks);

  std::unique_ptr<StepEngine> engine_;
  Framer framer_;
  StepParams params_;
  int hop_samples_;
  int64_t style_frames_ = 0;

  size_t framers_[2] = {}, engine_offset_ = 0;
  size_t workspace_ = 0, framer_line_ = 0, framer_scratch_ = 0, hop_ = 0, row_ = 0;
  void* state_ = nullptr;
  void* scratch_ = nullptr;
};

}  // namespace unils
