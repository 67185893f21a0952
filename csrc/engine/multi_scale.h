// MultiScale: residual binary spherical quantisation over several time scales, the tokens of family "published"
// (docs/published.md).
//
// Shapes: F frames of a window, d bits a token, n tokens of a level, N tokens of all levels, coarse levels first.
// A latent is (F, d); a code is one bit a value, +-1/sqrt(d).
#pragma once
#include <cstddef>
#include <vector>

namespace unils {

class MultiScale {
 public:
  // scales: tokens of each level, rising, the last one `frames`.
  MultiScale(int frames, std::vector<int> scales, int bits);

  int levels() const { return static_cast<int>(scales_.size()); }
  int tokens(int level) const { return scales_[static_cast<size_t>(level)]; }
  // Index among the N tokens of a level's first.
  int begin(int level) const { return begins_[static_cast<size_t>(level)]; }
  int all_tokens() const { return begins_.back() + scales_.back(); }

  // Means of `latent` over the spans of a level's tokens: (F, d) -> (n, d). Spans of coarse levels may overlap.
  void down(const float* latent, int level, float* tokens) const;
  // Adds a level's codes, interpolated linearly between the centres of its tokens: bits (n, d) of +-1, latent (F, d).
  void add(const float* bits, int level, float* latent) const;
  // z (F, d) -> bits (N, d) of +-1 and the latent that they stand for; z ends as what is left over. A value of zero is
  // a negative bit. tokens: (F, d), scratch.
  void quantise(float* z, float* bits, float* latent, float* tokens) const;

 private:
  struct Share {
    int lower, upper;    // tokens
    float below, above;  // their weights
  };

  int frames_, bits_;
  float code_;
  std::vector<int> scales_, begins_;
  std::vector<std::vector<Share>> shares_;  // by level and frame
};

}  // namespace unils
