// SavitzkyGolay: the value at a frame of the cubic that fits 9 frames best in the least-squares sense (A. Savitzky and
// M. J. E. Golay, Analytical Chemistry 36, 1627-1639, 1964): smoothing that keeps the height of a peak. Over a whole clip
// it is scipy.signal.savgol_filter(clip, 9, 3, axis=0).
#pragma once
#include <array>

namespace unils {

struct SavitzkyGolay {
  static constexpr int kFrames = 9;
  static constexpr int kDelay = 4;  // frames of the future that the middle one needs

  // frames: motions (channels), oldest first; at: which of them is wanted, 0..kFrames - 1. Summed in double.
  static void smooth(const std::array<const float*, kFrames>& frames, int at, int channels, float* motion);
};

}  // namespace unils
