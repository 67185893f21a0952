// FrameQueue: the frames that were made last, one or a window of them, and are not yet handed over, oldest first. Nothing
// is made before it is empty, so all of them are of one generation.
#pragma once
#include <cstddef>
#include <cstdint>

namespace unils {

class FrameQueue {
 public:
  // Plain data for snapshots.
  struct State {
    int64_t first = 0, end = 0;  // frames [first, end) are queued
    int64_t generation = 0;
  };

  static size_t value_floats(int capacity, int channels) {
    return static_cast<size_t>(capacity) * static_cast<size_t>(channels);
  }
  // values: (value_floats(capacity, channels)), owned by the caller.
  FrameQueue(float* values, int capacity, int channels) : values_(values), capacity_(capacity), channels_(channels) {}

  int64_t size() const { return state_.end - state_.first; }
  // Where the motion (capacity, D) of the next frames goes, before push(). Empty.
  float* back() { return values_; }
  void push(int64_t count, int64_t generation) {
    state_.end += count;
    state_.generation = generation;
  }
  // The oldest frame. Not empty.
  const float* front() const { return values_ + (state_.first - begin_of_last(state_)) * channels_; }
  int64_t end_index() const { return state_.end; }  // of the next frame to be made
  int64_t front_index() const { return state_.first; }
  int64_t generation() const { return state_.generation; }  // of all that are queued
  void pop() { ++state_.first; }

  const State& state() const { return state_; }
  bool plausible(const State& state) const {
    return state.first >= 0 && state.end >= state.first && state.generation >= 0 &&
           (state.end == state.first || state.first >= begin_of_last(state));
  }
  void load(const State& state) { state_ = state; }

 private:
  // Of the frames that values_ holds: windows begin at multiples of their length, and only the last one may be cut.
  int64_t begin_of_last(const State& state) const { return (state.end - 1) / capacity_ * capacity_; }

  float* values_;
  int64_t capacity_;
  int channels_;
  State state_;
};

}  // namespace unils
