// What one bit of a frame is: how it is drawn from its logit, and what it stands for (docs/stream-model.md, "Sampling"
// and "Residual BSQ"). One source for the host and for GPU kernels.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "core/philox.h"

namespace unils {

// The random number in [0, 1) that decides a bit.
UNILS_HOST_DEVICE inline float bit_uniform(uint64_t seed, int64_t frame, int level, int bit) {
  const std::array<uint32_t, 2> key = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  const auto number = static_cast<uint64_t>(frame);
  const std::array<uint32_t, 4> counter = {static_cast<uint32_t>(bit), static_cast<uint32_t>(level),
                                           static_cast<uint32_t>(number), static_cast<uint32_t>(number >> 32)};
  return static_cast<float>(philox4x32_10(counter, key)[0] >> 8) * 0x1p-24f;
}

// temperature > 0
UNILS_HOST_DEVICE inline bool is_one(float logit, float temperature, float top_p, float uniform) {
  const float p = 1.0f / (1.0f + std::exp(-logit / temperature));
  if (p >= top_p) return true;
  if (1.0f - p >= top_p) return false;
  return uniform < p;
}

UNILS_HOST_DEVICE inline bool sample_bit(float logit, float temperature, float top_p, uint64_t seed, int64_t frame,
                                         int level, int bit) {
  if (!(temperature > 0.0f)) return logit > 0.0f;
  return is_one(logit, temperature, top_p, bit_uniform(seed, frame, level, bit));
}

// Of one bit of a level with this gain, of d.
UNILS_HOST_DEVICE inline float code_size(float gain, int d) {
  return static_cast<float>(double{gain} / std::sqrt(static_cast<double>(d)));
}

// Value i of the latent of a frame: sum over levels, in their order, of gains[l] * bits[l] / sqrt(d). bits: (levels * d)
// of +-1.
UNILS_HOST_DEVICE inline float latent_value(const float* bits, const float* gains, int levels, int d, int i) {
  float latent = 0.0f;
  for (int level = 0; level < levels; ++level) latent += code_size(gains[level], d) * bits[level * d + i];
  return latent;
}

// The value of the latent that one value of z / |z| is quantised to.
UNILS_HOST_DEVICE inline float quantised_value(float residual, const float* gains, int levels, int d) {
  float latent = 0.0f;
  for (int level = 0; level < levels; ++level) {
    const float code = residual > 0.0f ? code_size(gains[level], d) : -code_size(gains[level], d);
    latent += code;
    residual -= code;
  }
  return latent;
}

}  // namespace unils
