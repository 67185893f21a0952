// Rope: rotary position embedding (Su et al., arXiv 2104.09864) over interleaved pairs, base 10000. Angles are computed
// in double from int64 positions: in float they drift within an hour.
#pragma once
#include <cstdint>
#include <vector>

namespace unils {

class Rope {
 public:
  Rope() = default;
  explicit Rope(int head_width);

  // cosines and sines: (head_width / 2), of position * 10000^(-2i/head_width)
  void row(int64_t position, float* cosines, float* sines) const;
  // Turns every head of x (heads * head_width) into out; x and out may be the same.
  void rotate(const float* x, int heads, const float* cosines, const float* sines, float* out) const;

 private:
  std::vector<double> frequencies_;  // radians a position, (head_width / 2)
};

}  // namespace unils
