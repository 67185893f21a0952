#include "engine/waveform.h"

#include <algorithm>
#include <cmath>

namespace unils {

bool normalise_waveform(const float* samples, int64_t count, float* out) {
  constexpr double kSilence = 0.0031622776601683795;  // 10^(-50/20)
  constexpr int64_t kStretch = 320;
  constexpr double kFloor = 1e-6;
  double sum = 0.0, squares = 0.0, loudest = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += double{samples[i]};
  const double mean = sum / static_cast<double>(count);
  for (int64_t begin = 0; begin < count; begin += kStretch) {
    double power = 0.0;
    for (int64_t i = begin; i < std::min(begin + kStretch, count); ++i) {
      const double square = (double{samples[i]} - mean) * (double{samples[i]} - mean);
      squares += square;
      power += square;
    }
    loudest = std::max(loudest, power / kStretch);
  }
  if (loudest < kSilence * kSilence) return false;
  const double deviation = std::sqrt(squares / static_cast<double>(count - 1));
  const double scale = 1.0 / (std::max(deviation, kSilence) + kFloor);
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>((double{samples[i]} - mean) * scale);
  return true;
}

}  // namespace unils
