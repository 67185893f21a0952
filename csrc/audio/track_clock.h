// TrackClock: when a frame may be made.
//
// Frame t needs samples [0, hop (t + 1 + look-ahead)) of every track that its mode waits for. Time is counted in
// samples: nothing is stretched, dropped or skipped to bring two tracks together. Under BOTH the track that is ahead
// waits in its ring, and when that is full its pushes take less; so two devices whose clocks drift apart need either
// mode OTHER (where only one of them is live) or a caller that resamples one to the other.
#pragma once
#include <algorithm>
#include <cstdint>

#include "unils/unils.h"

namespace unils {

class TrackClock {
 public:
  TrackClock() = default;
  TrackClock(unils_clock mode, int hop_samples, int look_ahead_self, int look_ahead_other)
      : mode_(mode), hop_samples_(hop_samples), look_ahead_{look_ahead_self, look_ahead_other} {}

  bool waits_for(unils_track track) const {
    return mode_ == UNILS_CLOCK_BOTH || (mode_ == UNILS_CLOCK_SELF) == (track == UNILS_TRACK_SELF);
  }
  bool takes(unils_track track) const { return mode_ != UNILS_CLOCK_SELF || track == UNILS_TRACK_SELF; }

  // Frames [0, result) may be made; ends: where the audio of each track ends on the time line, in samples.
  int64_t frames_reached(int64_t end_self, int64_t end_other) const {
    const int64_t self = end_self / hop_samples_ - look_ahead_[UNILS_TRACK_SELF];
    const int64_t other = end_other / hop_samples_ - look_ahead_[UNILS_TRACK_OTHER];
    if (mode_ == UNILS_CLOCK_BOTH) return std::min(self, other);
    return mode_ == UNILS_CLOCK_SELF ? self : other;
  }
  // The same once no more audio comes: the longer track, rounded up to a hop.
  int64_t frames_in_all(int64_t end_self, int64_t end_other) const {
    return (std::max(end_self, end_other) + hop_samples_ - 1) / hop_samples_;
  }

 private:
  unils_clock mode_ = UNILS_CLOCK_BOTH;
  int hop_samples_ = 1;
  int look_ahead_[2] = {};
};

}  // namespace unils
