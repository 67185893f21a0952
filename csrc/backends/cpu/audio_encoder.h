// AudioEncoder: log-mel rows to their keys and values in every layer's cross-attention.
#pragma once
#include "backends/cpu/causal_stack.h"
#include "engine/rope.h"
#include "engine/state_layout.h"

namespace unils {

class AudioEncoder {
 public:
  AudioEncoder() = default;
  AudioEncoder(Packer* packer, const unils_stream_sizes& sizes);

  int scratch_floats(int count) const;
  // `count` rows, at most kMaxBatchRows.
  void push_rows(const Kernels& kernels, const StateLayout& layout, const unils_row_request* requests, int count,
                 float* scratch) const;

 private:
  unils_stream_sizes sizes_ = {};
  const float* mel_mean_ = nullptr;
  const float* mel_std_ = nullptr;
  CausalStack stack_;
  Rope rope_;
  PackedLinear keys_values_[2];  // by track: (depth, [key; value], W)
};

}  // namespace unils
