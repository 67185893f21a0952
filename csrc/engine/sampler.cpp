#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

#include "core/philox.h"

namespace unils {

void sample_bits(const float* logits, int n, float temperature, float top_p, uint64_t seed, int64_t frame, int level,
                 float* out) {
  const std::array<uint32_t, 2> key = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  const auto number = static_cast<uint64_t>(frame);
  for (int i = 0; i < n; ++i) {
    bool bit = logits[i] > 0.0f;
    if (temperature > 0.0f) {
      const float p = 1.0f / (1.0f + std::exp(-logits[i] / temperature));
      if (p >= top_p) {
        bit = true;
      } else if (1.0f - p >= top_p) {
        bit = false;
      } else {
        const std::array<uint32_t, 4> counter = {static_cast<uint32_t>(i), static_cast<uint32_t>(level),
                                                 static_cast<uint32_t>(number), static_cast<uint32_t>(number >> 32)};
        const uint32_t word = philox4x32_10(counter, key)[0];
        bit = static_cast<float>(word >> 8) * 0x1p-24f < p;
      }
    }
    out[i] = bit ? 1.0f : -1.0f;
  }
}

namespace {

float code_size(float gain, int d) { return static_cast<float>(double{gain} / std::sqrt(static_cast<double>(d))); }

}  // namespace

void bits_to_latent(const float* bits, const float* gains, int levels, int d, float* latent) {
  std::fill(latent, latent + d, 0.0f);
  for (int level = 0; level < levels; ++level) {
    const float size = code_size(gains[level], d);
    for (int i = 0; i < d; ++i) latent[i] += size * bits[level * d + i];
  }
}

void quantise(float* z, const float* gains, int levels, int d) {
  float squares = 0.0f;
  for (int i = 0; i < d; ++i) squares += z[i] * z[i];
  const float length = std::max(std::sqrt(squares), 1e-6f);
  for (int i = 0; i < d; ++i) {
    float residual = z[i] / length, latent = 0.0f;
    for (int level = 0; level < levels; ++level) {
      const float code = residual > 0.0f ? code_size(gains[level], d) : -code_size(gains[level], d);
      latent += code;
      residual -= code;
    }
    z[i] = latent;
  }
}

}  // namespace unils
