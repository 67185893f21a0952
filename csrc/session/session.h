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
  static Status create(SessionSpec spec, const unils_session_options& options, std::unique_ptr<Session>* session);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // track, format: unils_track and unils_sample_format, unless the caller is wrong.
  Status push_audio(int track, const void* samples, int format, int64_t count, int sample_rate, int64_t* taken);
  Status pull_frames(const unils_frames& frames, int64_t capacity, int64_t* count);
  Status frames_ready(int64_t* count);
  Status interrupt(int64_t* generation);
  Status finish();
  Status reset();
  size_t snapshot_bytes() const { return sizeof(SnapshotHeader) + sizeof(SessionCounters) + state_.bytes(); }
  Status snapshot(void* buffer, size_t bytes);
  Status restore(const void* buffer, size_t bytes);
  Status get_latency(unils_latency* latency);
  Status get_stats(unils_stats* stats);

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

  static Status check(const SessionSpec& spec, const unils_session_options& options);
  Status start_over();
  int look_ahead(unils_track track) const {
    return track == UNILS_TRACK_SELF ? options_.look_ahead_self : options_.look_ahead_other;
  }
  int frame_values() const { return options_.faces * rig_.channels(); }
  int64_t style_values() const { return options_.style_frames * rig_.channels(); }  // of one face
  float* style(int face) { return scratch_.at<float>(layout_.styles) + face * style_values(); }
  int64_t end(unils_track track) { return tracks_.end(track, queue_.end_index() * hop_samples_); }
  unils_clock clock_mode() const { return options_.clock; }
  bool smoothing() const { return options_.smoothing != 0; }
  int64_t frames_to_make();
  int64_t frames_leaving();
  Status make_frames();
  uint64_t options_hash() const;
  bool plausible(const SessionCounters& counters) const;

  std::unique_ptr<FrameMaker> maker_;
  Layout layout_;
  Arena state_, scratch_;
  RigLayout rig_;
  TrackClock clock_;
  unils_session_options options_;  // without the pointers to styles
  bool styled_[2];                 // which faces have one
  int hop_samples_;
  int frame_rate_;
  int block_frames_;  // made at a time
  uint64_t fingerprint_;

  TrackInput self_, other_;
  Tracks tracks_;
  FrameQueue queue_;
  int64_t generation_ = 0;
  int64_t silent_own_frames_ = 0;
  bool finished_ = false;
  StepTimes step_times_;
  std::atomic<bool> pulling_{false};  // held by the thread that does everything but pushing
};

}  // namespace unils
