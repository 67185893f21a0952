// AudioEncoder: a log-mel row of a track to its keys and values in every layer's cross-attention, computed once, when the
// row arrives.
#pragma once
#include "backends/cpu/causal_stack.h"
#include "engine/rope.h"
#include "engine/state_layout.h"

namespace unils {

class AudioEncoder {
 public:
  AudioEncoder() = default;
  AudioEncoder(Packer* packer, const unils_stream_sizes& sizes);

  int scratch_floats() const;
  void push_row(const Kernels& kernels, const StateLayout& layout, const unils_row_request& request, float* scratch) const;

 private:
  unils_stream_sizes sizes_ = {};
  const float* mel_mean_ = nullptr;
  const float* mel_std_ = nullptr;
  CausalStack stack_;
  Rope rope_;
  PackedLinear keys_values_[2];  // by track: (depth, [key; value], W)
};

}  // namespace unils
