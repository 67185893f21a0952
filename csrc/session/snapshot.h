// What a snapshot is: a header that says whose it is, the session's counters, then the session's state as it is and,
// where a backend keeps a block of it, that.
// Plain bytes in the machine's own byte order.
#pragma once
#include <cstddef>
#include <cstdint>

#include "audio/track_input.h"
#include "postprocess/frame_queue.h"
#include "session/tracks.h"

namespace unils {

struct SnapshotHeader {
  static constexpr uint64_t kMagic = 0x31504e53534c4e55;  // "UNLSSNP1", little-endian
  uint64_t magic = 0;
  uint64_t bytes = 0;         // of the whole snapshot
  uint64_t engine_bytes = 0;  // of the engine's part of the state block
  uint64_t fingerprint = 0;   // of the model
  uint64_t options = 0;       // hash of the session's options, style included
  uint64_t checksum = 0;      // of everything behind the header
};

struct SessionCounters {
  TrackInput::State inputs[2];
  TrackLine lines[2];
  FrameQueue::State queue;
  int64_t generation = 0;
  int64_t silent_own_frames = 0;
};

// Not cryptographic: it finds damage, not malice. Words of eight bytes, mixed as in splitmix64.
class Checksum {
 public:
  void add(const void* data, size_t bytes);
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0x9e3779b97f4a7c15;
};

}  // namespace unils
