#include "engine/multi_scale.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

namespace unils {

MultiScale::MultiScale(int frames, std::vector<int> scales, int bits)
    : frames_(frames),
      bits_(bits),
      code_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(bits)))),
      scales_(std::move(scales)) {
  int begin = 0;
  for (const int tokens : scales_) {
    begins_.push_back(begin);
    begin += tokens;
    std::vector<Share> shares;
    for (int frame = 0; frame < frames_; ++frame) {
      // Half-pixel centres; the outer halves are held.
      const double centre = std::max(0.0, (frame + 0.5) * tokens / frames_ - 0.5);
      const int lower = std::min(static_cast<int>(centre), tokens - 1);
      const double share = centre - lower;
      shares.push_back({lower, std::min(lower + 1, tokens - 1), static_cast<float>(1.0 - share),
                        static_cast<float>(share)});
    }
    shares_.push_back(std::move(shares));
  }
}

void MultiScale::down(const float* latent, int level, float* out) const {
  const int64_t n = tokens(level);
  if (n == frames_) {
    std::copy_n(latent, int64_t{frames_} * bits_, out);
    return;
  }
  for (int64_t token = 0; token < n; ++token, out += bits_) {
    const int64_t first = token * frames_ / n, end = ((token + 1) * frames_ + n - 1) / n;
    const float weight = 1.0f / static_cast<float>(end - first);
    std::fill_n(out, bits_, 0.0f);
    for (int64_t frame = first; frame < end; ++frame) {
      for (int i = 0; i < bits_; ++i) out[i] += weight * latent[frame * bits_ + i];
    }
  }
}

void MultiScale::add(const float* bits, int level, float* latent) const {
  for (const Share& share : shares_[static_cast<size_t>(level)]) {
    const float* lower = bits + int64_t{share.lower} * bits_;
    const float* upper = bits + int64_t{share.upper} * bits_;
    for (int i = 0; i < bits_; ++i) *latent++ += share.below * (lower[i] * code_) + share.above * (upper[i] * code_);
  }
}

void MultiScale::quantise(float* z, float* bits, float* latent, float* scratch) const {
  const int64_t count = int64_t{frames_} * bits_;
  std::fill_n(latent, count, 0.0f);
  for (int level = 0; level < levels(); ++level) {
    float* own = bits + int64_t{begin(level)} * bits_;
    down(z, level, scratch);
    // Only signs count, so the length of the residual need not be normalised.
    for (int64_t i = 0; i < int64_t{tokens(level)} * bits_; ++i) own[i] = scratch[i] > 0.0f ? 1.0f : -1.0f;
    std::fill_n(scratch, count, 0.0f);
    add(own, level, scratch);
    for (int64_t i = 0; i < count; ++i) {
      z[i] -= scratch[i];
      latent[i] += scratch[i];
    }
  }
}

}  // namespace unils
