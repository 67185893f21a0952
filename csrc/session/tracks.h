// Tracks: the two tracks of a session on its time line, in samples at 16 kHz: sample s is in hop s / hop_samples.
#pragma once
#include <cstdint>

#include "audio/track_input.h"

namespace unils {

constexpr unils_track kTracks[] = {UNILS_TRACK_SELF, UNILS_TRACK_OTHER};

// Where one track stands.
struct TrackLine {
  int64_t front = 0;  // where the oldest sample in the ring lies; the ring holds what frames not yet made will hear
  int64_t heard = 0;  // end of the audio that features were made of; what they hold beyond is silence
};

struct Tracks {
  TrackInput* inputs[2] = {};
  TrackLine lines[2];

  // Where the audio of a track ends when frames from sample `next` on are still to be made: audio that comes late
  // starts there.
  int64_t end(unils_track track, int64_t next) {
    const int64_t available = inputs[track]->available();
    const int64_t front = lines[track].front;
    return available == 0 ? front : (front > next ? front : next) + available;
  }
};

}  // namespace unils
