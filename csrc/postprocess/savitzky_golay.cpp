#include "postprocess/savitzky_golay.h"

#include <cstddef>

namespace unils {
namespace {

using Weights = std::array<std::array<double, SavitzkyGolay::kFrames>, SavitzkyGolay::kFrames>;

// [at][i]: what frame i adds to the cubic's value at frame `at`. The Gram polynomials of degree 0 to 3 are orthogonal on
// x = -4..4, so the projection onto cubics is the sum of those onto each; the divisors are their squared norms.
constexpr Weights least_squares() {
  Weights weights{};
  for (int at = 0; at < SavitzkyGolay::kFrames; ++at) {
    for (int i = 0; i < SavitzkyGolay::kFrames; ++i) {
      const int x = at - SavitzkyGolay::kDelay, y = i - SavitzkyGolay::kDelay;
      const int linear = x * y;
      const int square = (3 * x * x - 20) * (3 * y * y - 20);
      const int cubic = (5 * x * x - 59) * x / 6 * ((5 * y * y - 59) * y / 6);
      weights[static_cast<size_t>(at)][static_cast<size_t>(i)] =
          1.0 / 9.0 + linear / 60.0 + square / 2772.0 + cubic / 990.0;
    }
  }
  return weights;
}

constexpr Weights kWeights = least_squares();

}  // namespace

void SavitzkyGolay::smooth(const std::array<const float*, kFrames>& frames, int at, int channels, float* motion) {
  const std::array<double, kFrames>& weights = kWeights[static_cast<size_t>(at)];
  for (int channel = 0; channel < channels; ++channel) {
    double sum = 0.0;
    for (size_t i = 0; i < weights.size(); ++i) sum += weights[i] * static_cast<double>(frames[i][channel]);
    motion[channel] = static_cast<float>(sum);
  }
}

}  // namespace unils
