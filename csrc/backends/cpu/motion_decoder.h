// MotionDecoder: the bits of a frame to its motion, causally (docs/stream-model.md, "Motion codec", decoder).
#pragma once
#include "backends/cpu/causal_stack.h"
#include "engine/state_layout.h"

namespace unils {

class MotionDecoder {
 public:
  MotionDecoder() = default;
  MotionDecoder(Packer* packer, const unils_stream_sizes& sizes, const float* gains);

  int scratch_floats(int count) const;
  // The motion of `count` requests, at most kMaxBatch, in the rig's units, from the bits in their states.
  void step(const Kernels& kernels, const StateLayout& layout, const unils_step_request* requests, int count,
            float* scratch) const;

 private:
  unils_stream_sizes sizes_ = {};
  std::vector<float> gains_;
  CausalStack stack_;
  PackedLinear output_;
  const float* motion_mean_ = nullptr;
  const float* motion_std_ = nullptr;
};

}  // namespace unils
