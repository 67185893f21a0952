// StateLayout: what is where in the state block of a session, the same on every backend. A block is plain data: all of it
// zero except the style prefix is a session before its first frame.
#pragma once
#include <cstddef>
#include <cstdint>

#include "engine/kv_ring.h"
#include "engine/row_ring.h"
#include "unils/backend.h"

namespace unils {

struct StateLayout {
  static constexpr int kMaxRewindRows = 16;
  static constexpr size_t kMaxBytes = size_t{256} << 20;  // no model of a larger state is loaded

  StateLayout(const unils_stream_sizes& sizes, const unils_features& features);

  size_t bytes = 0;
  size_t bits = 0;             // float (levels * bits): +-1, the bits of the last frame made, level-major
  size_t history[2] = {};      // float (UNILS_KEPT_HOPS, window - step samples), by track: where kept hops ended
  KvRing style;                // style tokens, without RoPE
  KvRing self[2];              // past frames, with RoPE: [0] the conditional row, [1] the unconditional one, side by side
  KvRing cross[2];             // audio rows by track, with RoPE
  RowRing audio[2];            // audio encoder's blocks by track
  RowRing decoder;             // motion decoder's blocks
};

}  // namespace unils
