// StyleEncoder: a few seconds of motion to style tokens (docs/stream-model.md, "Style prefix").
#pragma once
#include "backends/cpu/causal_stack.h"

namespace unils {

class StyleEncoder {
 public:
  StyleEncoder() = default;
  StyleEncoder(Packer* packer, const unils_stream_sizes& sizes, const float* gains);

  size_t scratch_floats() const;
  // motion: (frames, D), at most UNILS_STYLE_MAX_FRAMES; tokens: (S, W).
  void encode(const Kernels& kernels, const float* motion, int64_t frames, float* scratch, float* tokens) const;

 private:
  unils_stream_sizes sizes_ = {};
  std::vector<float> gains_;
  const float* motion_mean_ = nullptr;
  const float* motion_std_ = nullptr;
  CausalStack stack_;
  PackedLinear output_, up_, down_;
  RowRing history_;  // in scratch, from its start
  size_t history_bytes_ = 0;
};

}  // namespace unils
