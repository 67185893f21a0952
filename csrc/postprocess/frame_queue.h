// FrameQueue: the frames that were made last and have not left yet, oldest first, each with its generation. Frames are
// made in blocks, and the next block only when none can leave. With smoothing, frame t leaves when t + 4 is made (the
// first four with frame 8), the last four when nothing follows; a clip of fewer than 9 frames leaves as it is.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "core/ring.h"
#include "postprocess/savitzky_golay.h"

namespace unils {

class FrameQueue {
 public:
  // Plain data for snapshots, as are the caller's arrays.
  struct State {
    int64_t first = 0, end = 0;  // of the frames that are made, [first, end) have not left
  };

  // Frames held: a block and, with smoothing, what the filter reaches back to.
  static size_t capacity(int block, bool smoothing) {
    return static_cast<size_t>(block) + (smoothing ? SavitzkyGolay::kFrames - 1 : 0);
  }
  FrameQueue() = default;
  // block: frames that one push brings, at most. values: (capacity, channels), generations: (capacity), owned by the
  // caller.
  FrameQueue(float* values, int64_t* generations, int block, int channels, bool smoothing)
      : values_(values),
        generations_(generations),
        ring_(static_cast<int64_t>(capacity(block, smoothing))),
        block_(block),
        channels_(channels),
        smoothing_(smoothing) {}

  int64_t end_index() const { return state_.end; }  // of the next frame to be made
  int64_t front_index() const { return state_.first; }
  // How many frames can leave once `made` are made in all; complete: nothing follows them.
  int64_t leaving(int64_t made, bool complete) const {
    return std::max<int64_t>(0, (complete ? made : settled(made)) - state_.first);
  }

  // motion: (count, channels), the next block; only the last one may have less than `block` frames.
  void push(const float* motion, int64_t count, int64_t generation) {
    for (int64_t i = 0; i < count; ++i, ++state_.end) {
      std::copy_n(motion + i * channels_, channels_, at(state_.end));
      generations_[ring_.slot(state_.end)] = generation;
    }
  }
  // The oldest frame, which can leave: motion (channels).
  void front(float* motion) const {
    if (!smoothing_ || state_.end < SavitzkyGolay::kFrames) {
      std::copy_n(at(state_.first), channels_, motion);
      return;
    }
    const int64_t begin = std::clamp<int64_t>(state_.first - SavitzkyGolay::kDelay, 0,
                                              state_.end - SavitzkyGolay::kFrames);
    std::array<const float*, SavitzkyGolay::kFrames> frames;
    for (size_t i = 0; i < frames.size(); ++i) frames[i] = at(begin + static_cast<int64_t>(i));
    SavitzkyGolay::smooth(frames, static_cast<int>(state_.first - begin), channels_, motion);
  }
  int64_t front_generation() const { return generations_[ring_.slot(state_.first)]; }
  void pop() { ++state_.first; }

  const State& state() const { return state_; }
  // Whether a session, finished or not, can have this state.
  bool plausible(const State& state, bool finished) const {
    constexpr int64_t kMostFrames = int64_t{1} << 40;  // so that no sum of positions overflows
    if (state.first < 0 || state.end < state.first || state.end > kMostFrames) return false;
    // When the last block was made, no frame before it could leave.
    const int64_t last_block = std::max<int64_t>(0, state.end - 1) / block_ * block_;
    return state.first >= settled(last_block) && (finished || state.first <= settled(state.end));
  }
  // Whether the generations of the loaded state rise to that of the session, `newest`.
  bool generations_rise_to(int64_t newest) const {
    int64_t before = 0;
    for (int64_t frame = state_.first; frame < state_.end; ++frame) {
      const int64_t generation = generations_[ring_.slot(frame)];
      if (generation < before) return false;
      before = generation;
    }
    return before <= newest;
  }
  void load(const State& state) { state_ = state; }

 private:
  // Frames [0, result) can leave when [0, made) are made and more follow.
  int64_t settled(int64_t made) const {
    if (!smoothing_) return made;
    return made < SavitzkyGolay::kFrames ? 0 : made - SavitzkyGolay::kDelay;
  }
  float* at(int64_t frame) const { return values_ + ring_.slot(frame) * channels_; }

  float* values_ = nullptr;
  int64_t* generations_ = nullptr;
  RingIndex ring_;
  int64_t block_ = 1;
  int channels_ = 0;
  bool smoothing_ = false;
  State state_;
};

}  // namespace unils
