// WindowMaker: family "published", a window of frames at a time, from that window of audio. What the tracks do not hold
// of it is silence; own audio that comes late starts at the next window.
#pragma once
#include <memory>

#include "engine/window_engine.h"
#include "session/frame_maker.h"

namespace unils {

class WindowMaker final : public FrameMaker {
 public:
  static Status check(const SessionSpec& spec, const unils_session_options& options);
  WindowMaker(SessionSpec* spec, const unils_session_options& options, ArenaLayout* state, ArenaLayout* scratch);

  void bind(void* state, void* scratch) override {
    state_ = state;
    scratch_ = scratch;
  }
  Status start_over(const float* style) override;
  Status make(int64_t frame, Tracks* tracks, float* motion) override;
  // Nothing is heard before its window is made.
  Status forget(unils_track, int64_t, Tracks*) override { return Status(); }
  bool plausible(int64_t frame, const Tracks& tracks) const override;
  size_t engine_bytes() const override { return engine_->state_bytes(); }
  size_t bytes() const override { return sizeof *this; }

 private:
  void* engine_state() const { return arena_at<char>(state_, engine_offset_); }
  void* workspace() const { return arena_at<char>(scratch_, workspace_); }
  int64_t window_samples() const { return int64_t{hop_samples_} * engine_->window_frames(); }

  std::unique_ptr<WindowEngine> engine_;
  WindowParams params_;
  int hop_samples_;
  int64_t style_frames_;

  size_t engine_offset_;
  size_t workspace_, audio_[2];
  void* state_ = nullptr;
  void* scratch_ = nullptr;
};

}  // namespace unils
