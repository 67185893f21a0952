#include "engine/rope.h"

#include <cmath>

namespace unils {

Rope::Rope(int head_width) {
  for (int i = 0; i < head_width; i += 2)
    frequencies_.push_back(std::pow(10000.0, -static_cast<double>(i) / head_width));
}

void Rope::row(int64_t position, float* cosines, float* sines) const {
  for (size_t i = 0; i < frequencies_.size(); ++i) {
    const double angle = static_cast<double>(position) * frequencies_[i];
    cosines[i] = static_cast<float>(std::cos(angle));
    sines[i] = static_cast<float>(std::sin(angle));
  }
}

void Rope::rotate(const float* x, int heads, const float* cosines, const float* sines, float* out) const {
  const size_t pairs = frequencies_.size();
  for (int head = 0; head < heads; ++head, x += 2 * pairs, out += 2 * pairs) {
    for (size_t i = 0; i < pairs; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      out[2 * i] = a * cosines[i] - b * sines[i];
      out[2 * i + 1] = a * sines[i] + b * cosines[i];
    }
  }
}

}  // namespace unils
