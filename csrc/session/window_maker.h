// WindowMaker: family "published". A block of frames at a time: the model's own window, or in rolling mode a few hops at
// the end of a window of which the rest has been heard and shown before. What the tracks do not hold is silence; own
// audio that comes late starts at the next block.
#pragma once
#include <memory>

#include "engine/window_engine.h"
#include "session/frame_maker.h"

namespace unils {

class WindowMaker final : public FrameMaker {
 public:
  static Status create(const SessionSpec& spec, const unils_session_options& options, ArenaLayout* state,
                       ArenaLayout* scratch, std::unique_ptr<FrameMaker>* maker);

  void bind(void* state, void* scratch) override {
    state_ = state;
    scratch_ = scratch;
  }
  Status start_over(const float* const* styles) override;
  Status make(int64_t frame, Tracks* tracks, float* motion) override;
  // Audio beyond the next frame is not kept: every block looks at the ring again.
  Status forget(unils_track, int64_t, Tracks*) override { return Status(); }
  bool plausible(int64_t frame, const Tracks& tracks) const override;
  size_t engine_bytes() const override { return engine_->state_bytes(); }
  size_t bytes() const override { return sizeof *this + engine_->graph_bytes(); }

 private:
  WindowMaker(const SessionSpec& spec, const unils_session_options& options, const WindowShape& shape,
              std::unique_ptr<WindowEngine> engine, ArenaLayout* state, ArenaLayout* scratch);
  static Status check(const SessionSpec& spec, const unils_session_options& options, const WindowShape& shape);

  void* engine_state() const { return arena_at<char>(state_, engine_offset_); }
  void* workspace() const { return arena_at<char>(scratch_, workspace_); }
  float* past(unils_track track) const { return arena_at<float>(state_, past_[track]); }
  float* audio(unils_track track) const { return arena_at<float>(scratch_, audio_[track]); }

  std::unique_ptr<WindowEngine> engine_;
  WindowShape shape_;
  WindowParams params_;
  int64_t window_frames_;
  int64_t past_frames_;  // most frames of a window that were shown before
  int64_t hop_samples_;
  int64_t look_ahead_[2];

  size_t engine_offset_, past_[2];  // audio of the last past_frames_ shown, as it was heard
  size_t workspace_, audio_[2];
  void* state_ = nullptr;
  void* scratch_ = nullptr;
};

}  // namespace unils
