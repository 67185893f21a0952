// FrameQueue: frames that are made and not yet handed over, oldest first. When it is full nothing is stepped.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/ring.h"

namespace unils {

class FrameQueue {
 public:
  static constexpr int64_t kCapacity = 4;

  // Plain data for snapshots; frame n since reset lies in slot n % kCapacity.
  struct State {
    int64_t first = 0, end = 0;  // frames [first, end) are queued
    int64_t generation[kCapacity] = {};
  };

  static size_t value_floats(int channels) { return static_cast<size_t>(kCapacity * channels); }
  // values: (value_floats(channels)), owned by the caller.
  FrameQueue(float* values, int channels) : values_(values), channels_(channels) {}

  int64_t size() const { return state_.end - state_.first; }
  bool full() const { return size() == kCapacity; }
  // Where the next frame's motion (D) goes, before push(). Not full.
  float* back() { return values_ + kSlots.slot(state_.end) * channels_; }
  void push(int64_t generation) { state_.generation[kSlots.slot(state_.end++)] = generation; }
  // The oldest frame. Not empty.
  const float* front() const { return values_ + kSlots.slot(state_.first) * channels_; }
  int64_t end_index() const { return state_.end; }  // of the next frame to be made
  int64_t front_index() const { return state_.first; }
  int64_t front_generation() const { return state_.generation[kSlots.slot(state_.first)]; }
  void pop() { ++state_.first; }

  const State& state() const { return state_; }
  static bool plausible(const State& state) {
    return state.first >= 0 && state.end >= state.first && state.end - state.first <= kCapacity;
  }
  void load(const State& state) { state_ = state; }

 private:
  static constexpr RingIndex kSlots{kCapacity};

  float* values_;
  int channels_;
  State state_;
};

}  // namespace unils
