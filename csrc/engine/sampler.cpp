#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/bits.h"

namespace unils {
namespace {

// The order of floats as that of integers, both zeros alike.
int64_t rank_of(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits >= 0 ? bits : int64_t{INT32_MIN} - bits;
}
float float_of(int64_t rank) {
  const auto bits = static_cast<int32_t>(rank >= 0 ? rank : int64_t{INT32_MIN} - rank);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The largest logit that is not one.
float threshold_of(float temperature, float top_p, float u) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kLargest = std::numeric_limits<float>::max();
  // At minus infinity a bit is never one, at infinity always. Beyond rounding the answer is known, so look around it.
  const double p = std::max(1.0 - double{top_p}, std::min(double{u}, double{top_p}));
  const double log_odds = temperature * (std::log(p) - std::log1p(-p));
  const auto guess = static_cast<float>(std::clamp(log_odds, double{-kLargest}, double{kLargest}));
  int64_t no = rank_of(-kInfinity), yes = rank_of(kInfinity);
  const int64_t middle = rank_of(guess);
  if (is_one(float_of(middle), temperature, top_p, u)) {
    yes = middle;
    for (int64_t step = 1; yes - step > no; step *= 2) {
      if (!is_one(float_of(yes - step), temperature, top_p, u)) {
        no = yes - step;
        break;
      }
      yes -= step;
    }
  } else {
    no = middle;
    for (int64_t step = 1; no + step < yes; step *= 2) {
      if (is_one(float_of(no + step), temperature, top_p, u)) {
        yes = no + step;
        break;
      }
      no += step;
    }
  }
  while (yes - no > 1) {
    const int64_t half = no + (yes - no) / 2;
    (is_one(float_of(half), temperature, top_p, u) ? yes : no) = half;
  }
  return float_of(no);
}

}  // namespace

void sample_bits(const float* logits, int n, float temperature, float top_p, uint64_t seed, int64_t frame, int level,
                 float* out) {
  for (int i = 0; i < n; ++i) {
    out[i] = sample_bit(logits[i], temperature, top_p, seed, frame, level, i) ? 1.0f : -1.0f;
  }
}

void bit_thresholds(int levels, int d, float temperature, float top_p, uint64_t seed, int64_t frame,
                    float* thresholds) {
  for (int level = 0; level < levels; ++level) {
    for (int i = 0; i < d; ++i) {
      const float u = bit_uniform(seed, frame, level, i);
      *thresholds++ = temperature > 0.0f ? threshold_of(temperature, top_p, u) : 0.0f;
    }
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
