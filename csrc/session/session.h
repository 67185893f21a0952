// Session: one conversation. It owns every stage between the caller's audio and the caller's frames, and is the only
// code that knows them all. Its entry points are those of unils.h, where their promises stand.
//
// Threads: push_audio from one thread a track, everything else from one more. Pushers and the puller share the rings'
// atomics only; a second puller is turned away by a flag.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "audio/track_clock.h"
#include "audio/track_input.h"
#include "core/arena.h"
#include "core/status.h"
#include "postprocess/frame_queue.h"
#include "postprocess/rig_layout.h"
#include "session/frame_maker.h"
#include "session/session_spec.h"
#include "session/snapshot.h"
#include "session/step_times.h"

namespace unils {

class Session {
 public:
  static constexpr int64_t kMinStyleFrames = 25, kMaxStyleFrames = 500;

  // UNILS_ERROR_INVALID_ARGUMENT when an option is out of range, UNILS_ERROR_OUT_OF_MEMORY.
  static Status create(const SessionSpec& spec, const unils_session_options& options,
                       std::unique_ptr<Session>* session);
  // With memory for any options of a session of family "stream", so that reopen() allocates nothing.
  static Status create_reopenable(const SessionSpec& spec, const unils_session_options& options,
                                  const EngineHome& home, std::unique_ptr<Session>* session);
  // As newly made with other options. Nobody else may be inside.
  Status reopen(const SessionSpec& spec, const unils_session_options& options);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // track, format: unils_track and unils_sample_format, unless the caller is wrong.
  Status push_audio(int track, const void* samples, int format, int64_t count, int sample_rate, int64_t* taken);
  Status pull_frames(const unils_frames& frames, int64_t capacity, int64_t* count);
  Status frames_ready(int64_t* count);
  Status interrupt(int64_t* generation);
  Status finish();
  Status reset();
  size_t snapshot_bytes() const { return sizeof(SnapshotHeader) + body_bytes(); }
  Status snapshot(void* buffer, size_t bytes);
  Status restore(const void* buffer, size_t bytes);
  Status get_latency(unils_latency* latency);
  Status get_stats(unils_stats* stats);

  // A pull in pieces, for pools. Whoever holds the session turns every other call but push_audio away.
  bool try_hold() { return !pulling_.exchange(true, std::memory_order_acquire); }
  void let_go() { pulling_.store(false, std::memory_order_release); }
  bool frame_leaves() { return frames_leaving() > 0; }
  int64_t leaving_generation() const { return queue_.front_generation(); }
  void hand_over(const unils_frames& frames, int64_t i);  // the frame that leaves, as the i-th
  int64_t frames_that_can_leave() { return queue_.leaving(queue_.end_index() + frames_to_make(), finished_); }
  bool frame_can_be_made() { return frames_to_make() > 0; }
  // The next frame, stepped in between by whoever steps several; microseconds: what that took of it.
  Status begin_frame(StepWorkspace& workspace, StepRequest* request);
  Status end_frame(const StepRequest& request, double microseconds);
  size_t bytes() const { return sizeof *this + state_.bytes() + scratch_.bytes() + maker_->bytes() + rig_.bytes(); }

 private:
  // Where things lie, besides what the maker holds: state is what a snapshot copies, scratch is what it need not.
  struct Layout {
    ArenaLayout state, scratch;
    size_t rings[2], queue, generations;
    size_t tables[2], step_times, styles, block;
    Layout(const SessionSpec& spec, const unils_session_options& options);
  };

  Session(const SessionSpec& spec, const unils_session_options& options, std::unique_ptr<FrameMaker> maker,
          const Layout& layout, Arena state, Arena scratch);

  static Status create(const SessionSpec& spec, const unils_session_options& options,
                       const unils_session_options& widest, const EngineHome* home, std::unique_ptr<Session>* session);
  // What follows from the options and the layout of the memory.
  void open(const SessionSpec& spec, const unils_session_options& options, const Layout& layout);
  static Status check(const SessionSpec& spec, const unils_session_options& options);
  Status start_over();
  int look_ahead(unils_track track) const {
    return track == UNILS_TRACK_SELF ? options_.look_ahead_self : options_.look_ahead_other;
  }
  size_t state_bytes() const { return layout_.state.bytes(); }
  size_t body_bytes() const { return sizeof(SessionCounters) + state_bytes() + maker_->block_bytes(); }  // of a snapshot
  int frame_values() const { return options_.faces * rig_.channels(); }
  int64_t style_values() const { return options_.style_frames * rig_.channels(); }  // of one face
  float* style(int face) { return scratch_.at<float>(layout_.styles) + face * style_values(); }
  int64_t end(unils_track track) { return tracks_.end(track, queue_.end_index() * hop_samples_); }
  unils_clock clock_mode() const { return options_.clock; }
  bool smoothing() const { return options_.smoothing != 0; }
  int64_t frames_to_make();
  int64_t frames_leaving();
  Status make_frames();
  void count_frames(const float* motion, int64_t count, double microseconds);
  uint64_t options_hash() const;
  bool plausible(const SessionCounters& counters) const;

  std::unique_ptr<FrameMaker> maker_;
  Layout layout_;
  Arena state_, scratch_;
  RigLayout rig_;
  TrackClock clock_;
  unils_session_options options_;  // without the pointers to styles
  bool styled_[2] = {};            // which faces have one
  int hop_samples_;
  int frame_rate_;
  int block_frames_ = 1;  // made at a time
  uint64_t fingerprint_;

  TrackInput self_, other_;
  Tracks tracks_;
  FrameQueue queue_;
  int64_t generation_ = 0;
  int64_t silent_own_frames_ = 0;
  bool finished_ = false;
  StepTimes step_times_;
  double begin_microseconds_ = 0.0;
  std::atomic<bool> pulling_{false};  // held by the thread that does everything but pushing
};

}  // namespace unils
