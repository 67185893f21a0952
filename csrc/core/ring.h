// RingIndex: where position p of an endless stream lies in a ring of fixed capacity. Positions are int64 and never
// wrap; only slots do. A ring holds the last `capacity` positions written.
//
// The capacity is at least window + write - 1 (a write of `write` positions must not destroy what the oldest of the
// readers in flight still sees) and a multiple of `write`, so a write that starts at a multiple of `write` never wraps.
#pragma once
#include <algorithm>
#include <cstdint>

namespace unils {

struct RingSpan {
  int64_t slot = 0;   // first slot
  int64_t count = 0;  // contiguous slots
};

struct RingSpans {
  RingSpan older, newer;  // newer.count == 0 when the range does not wrap
};

class RingIndex {
 public:
  constexpr RingIndex() = default;
  constexpr explicit RingIndex(int64_t capacity) : capacity_(capacity) {}
  // Smallest ring for readers that see `window` positions and writers that write `write` at a time.
  static constexpr RingIndex for_window(int64_t window, int64_t write) {
    const int64_t needed = window + write - 1;
    return RingIndex((needed + write - 1) / write * write);
  }

  constexpr int64_t capacity() const { return capacity_; }
  // position >= 0
  constexpr int64_t slot(int64_t position) const { return position % capacity_; }
  // Positions [first, first + count), oldest first, as at most two contiguous runs; 0 <= count <= capacity.
  constexpr RingSpans spans(int64_t first, int64_t count) const {
    const int64_t start = slot(first);
    const int64_t run = std::min(count, capacity_ - start);
    return {{start, run}, {0, count - run}};
  }

 private:
  int64_t capacity_ = 1;
};

}  // namespace unils
