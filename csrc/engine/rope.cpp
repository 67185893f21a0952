#include "engine/rope.h"

#include <cmath>

namespace unils {

void rope_row(int64_t position, int head_width, float* cosines, float* sines) {
  for (int i = 0; i < head_width / 2; ++i) {
    const double angle = static_cast<double>(position) * std::pow(10000.0, -2.0 * i / head_width);
    cosines[i] = static_cast<float>(std::cos(angle));
    sines[i] = static_cast<float>(std::sin(angle));
  }
}

void rope_rotate(const float* x, int heads, int head_width, const float* cosines, const float* sines, float* out) {
  for (int head = 0; head < heads; ++head, x += head_width, out += head_width) {
    for (int i = 0; i < head_width / 2; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      out[2 * i] = a * cosines[i] - b * sines[i];
      out[2 * i + 1] = a * sines[i] + b * cosines[i];
    }
  }
}

}  // namespace unils
