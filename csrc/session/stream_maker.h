// StreamMaker: family "stream", a frame a hop. Rows beyond a track's audio (look-ahead, or own audio that is missing
// under clock OTHER) are made of silence and made again when audio comes.
#pragma once
#include <memory>

#include "engine/step_engine.h"
#include "session/frame_maker.h"

namespace unils {

class StreamMaker final : public FrameMaker {
 public:
  static Status create(const SessionSpec& spec, const unils_session_options& options, const EngineHome* home,
                       ArenaLayout* state, ArenaLayout* scratch, std::unique_ptr<FrameMaker>* maker);

  void bind(void* state, void* scratch) override {
    state_ = state;
    scratch_ = scratch;
  }
  Status reopen(const unils_session_options& options, ArenaLayout* state, ArenaLayout* scratch) override;
  Status start_over(const float* const* styles) override;
  Status make(int64_t frame, Tracks* tracks, float* motion) override;
  Status begin(int64_t frame, Tracks* tracks, StepWorkspace& workspace, StepRequest* request) override;
  void end(int64_t frame, Tracks* tracks) override;
  Status forget(unils_track track, int64_t frame, Tracks* tracks) override;
  bool plausible(int64_t frame, const Tracks& tracks) const override;
  size_t engine_bytes() const override { return engine_->counts_bytes() + engine_->block_bytes(); }
  size_t block_bytes() const override { return engine_->block_bytes(); }
  Status read_block(void* bytes) const override { return engine_->read_block(home_.block, bytes); }
  Status write_block(const void* bytes) override { return engine_->write_block(home_.block, bytes); }
  size_t bytes() const override;

 private:
  StreamMaker(const SessionSpec& spec, const unils_session_options& options, ArenaLayout* state, ArenaLayout* scratch);
  static Status check(const unils_session_options& options);
  void lay_out(const unils_session_options& options, ArenaLayout* state, ArenaLayout* scratch);
  int look_ahead(unils_track track) const {
    return track == UNILS_TRACK_SELF ? params_.look_ahead_self : params_.look_ahead_other;
  }
  StepState engine_state() const { return {arena_at<char>(state_, counts_), home_.block}; }
  Status hear(unils_track track, int64_t frame, Tracks* tracks, StepWorkspace& workspace);

  std::shared_ptr<const StepEngine> engine_;
  std::unique_ptr<StepStates> own_states_;
  std::unique_ptr<StepWorkspace> own_workspace_;
  EngineHome home_ = {};
  StepParams params_;
  int hop_samples_;
  int64_t style_frames_ = 0;

  size_t counts_ = 0, hop_ = 0;
  void* state_ = nullptr;
  void* scratch_ = nullptr;
};

}  // namespace unils
