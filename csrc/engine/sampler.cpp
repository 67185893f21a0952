#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

#include "core/bits.h"

namespace unils {

void sample_bits(const float* logits, int n, float temperature, float top_p, uint64_t seed, int64_t frame, int level,
                 float* out) {
  for (int i = 0; i < n; ++i) {
    out[i] = sample_bit(logits[i], temperature, top_p, seed, frame, level, i) ? 1.0f : -1.0f;
  }
}

void bits_to_latent(const float* bits, const float* gains, int levels, int d, float* latent) {
  for (int i = 0; i < d; ++i) latent[i] = latent_value(bits, gains, levels, d, i);
}

void quantise(float* z, const float* gains, int levels, int d) {
  float squares = 0.0f;
  for (int i = 0; i < d; ++i) squares += z[i] * z[i];
  const float length = std::max(std::sqrt(squares), 1e-6f);
  for (int i = 0; i < d; ++i) z[i] = quantised_value(z[i] / length, gains, levels, d);
}

}  // namespace unils
