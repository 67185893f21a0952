// Rotary position embedding (Su et al., arXiv 2104.09864) over interleaved pairs, base 10000. Angles are computed in
// double from int64 positions: in float they drift within an hour.
#pragma once
#include <cstdint>

namespace unils {

// cos and sin: (head_width / 2), of position * 10000^(-2i/head_width)
void rope_row(int64_t position, int head_width, float* cosines, float* sines);

// Turns every head of x (heads * head_width) into out; x and out may be the same.
void rope_rotate(const float* x, int heads, int head_width, const float* cosines, const float* sines, float* out);

}  // namespace unils
