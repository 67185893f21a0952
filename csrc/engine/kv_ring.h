// KvRing: where the keys and values of attention lie in a state block, one ring per layer and head.
//
// Keys are stored (head, head_width, slot), so that scores of many slots are one vector operation each; values are
// stored (head, slot, head_width rounded up), so that a weighted sum is too.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/arena.h"
#include "core/ring.h"

namespace unils {

class KvRing {
 public:
  // Slots are scored in blocks and value rows start at multiples of it (see kernels/kernels.h).
  static constexpr int kBlock = 16;

  KvRing() = default;
  // Room for `positions` positions, rounded up to whole blocks.
  KvRing(ArenaLayout* arena, int layers, int heads, int head_width, int64_t positions)
      : heads_(heads),
        head_width_(head_width),
        value_stride_(static_cast<int64_t>(round_up(static_cast<size_t>(head_width), kBlock))),
        index_(RingIndex::for_window(static_cast<int64_t>(round_up(static_cast<size_t>(positions), kBlock)), 1)) {
    floats_ = static_cast<size_t>(layers * heads_ * (keys_per_head() + values_per_head()));
    offset_ = arena->add<float>(floats_);
  }

  const RingIndex& index() const { return index_; }
  size_t offset() const { return offset_; }  // in a state, bytes
  int64_t heads() const { return heads_; }
  int64_t head_width() const { return head_width_; }
  int64_t value_stride() const { return value_stride_; }
  int64_t floats() const { return static_cast<int64_t>(floats_); }  // from keys(state, 0, 0)

  // (head_width, capacity)
  const float* keys(const void* state, int layer, int head) const {
    return arena_at<float>(state, offset_) + (int64_t{layer} * heads_ + head) * (keys_per_head() + values_per_head());
  }
  // (capacity, value_stride)
  const float* values(const void* state, int layer, int head) const {
    return keys(state, layer, head) + keys_per_head();
  }

  // The whole ring, from one state to another.
  void copy(const void* from, void* to) const {
    std::memcpy(arena_at<float>(to, offset_), arena_at<float>(from, offset_), floats_ * sizeof(float));
  }

  // key and value: (heads * head_width)
  void write(void* state, int layer, int64_t position, const float* key, const float* value) const {
    const int64_t slot = index_.slot(position);
    for (int head = 0; head < heads_; ++head) {
      float* to_keys = const_cast<float*>(keys(state, layer, head));
      float* to_values = to_keys + keys_per_head() + slot * value_stride_;
      for (int d = 0; d < head_width_; ++d) {
        to_keys[d * index_.capacity() + slot] = *key++;
        to_values[d] = *value++;
      }
    }
  }

 private:
  int64_t keys_per_head() const { return head_width_ * index_.capacity(); }
  int64_t values_per_head() const { return index_.capacity() * value_stride_; }

  size_t offset_ = 0, floats_ = 0;
  int64_t heads_ = 0, head_width_ = 0, value_stride_ = 0;
  RingIndex index_;
};

}  // namespace unils
