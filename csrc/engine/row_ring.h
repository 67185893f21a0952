// RowRing: the last rows of activations that causal convolutions look back at, one ring per block.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/arena.h"
#include "core/ring.h"

namespace unils {

class RowRing {
 public:
  RowRing() = default;
  RowRing(ArenaLayout* arena, int blocks, int width, int64_t positions)
      : width_(width), index_(RingIndex::for_window(positions, 1)) {
    floats_ = blocks * index_.capacity() * width_;
    offset_ = arena->add<float>(static_cast<size_t>(floats_));
  }

  const RingIndex& index() const { return index_; }
  size_t offset() const { return offset_; }  // in a state, bytes
  int64_t width() const { return width_; }
  int64_t floats() const { return floats_; }  // from row(state, 0, 0)

  // (width); position >= 0
  float* row(void* state, int block, int64_t position) const {
    return arena_at<float>(state, offset_) + (block * index_.capacity() + index_.slot(position)) * width_;
  }

 private:
  size_t offset_ = 0;
  int64_t width_ = 0, floats_ = 0;
  RingIndex index_;
};

}  // namespace unils
