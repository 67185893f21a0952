// Sampling of a level's bits from its logits, and what bits mean: residual binary spherical quantisation.
#pragma once
#include <cstdint>

#include "unils/backend.h"

namespace unils {

// out[i] = +1 or -1 for each of n logits, as docs/stream-model.md says under "Sampling".
void sample_bits(const float* logits, int n, float temperature, float top_p, uint64_t seed, int64_t frame, int level,
                 float* out);

// The largest logit at which sample_bits says -1, for each of levels * d bits: it says +1 at all above, as its rule never
// turns back while the logit rises.
void bit_thresholds(int levels, int d, float temperature, float top_p, uint64_t seed, int64_t frame, float* thresholds);

// The latent of a frame: sum over levels, in their order, of gains[l] * bits[l] / sqrt(d). bits: (levels * d) of +-1.
void bits_to_latent(const float* bits, const float* gains, int levels, int d, float* latent);

// Quantises z (d) in place: normalises it, takes the bits of its residual level by level and leaves the latent.
void quantise(float* z, const float* gains, int levels, int d);

}  // namespace unils
