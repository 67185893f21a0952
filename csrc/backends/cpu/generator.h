// Generator: one token a frame and session; all rows of a batch, with and without audio, in one pass over the weights.
#pragma once
#include "backends/cpu/causal_stack.h"
#include "engine/rope.h"
#include "engine/state_layout.h"

namespace unils {

class Generator {
 public:
  Generator() = default;
  Generator(Packer* packer, const unils_stream_sizes& sizes);

  int scratch_floats(int count) const;
  // Samples the bits of the frame of `count` requests, at most kMaxBatch, into their states (layout.bits).
  void step(const Kernels& kernels, const StateLayout& layout, const unils_step_request* requests, int count,
            float* scratch) const;

  // Writes the keys and values of style tokens (S, W) into the state, for every layer.
  void set_style_tokens(const Kernels& kernels, const StateLayout& layout, void* state, const float* tokens,
                        float* scratch) const;
  const float* null_style() const { return style_null_; }  // (S, W)

 private:
  struct Cross {
    LayerNorm norm;
    PackedLinear query, output;
  };
  struct Block {
    LayerNorm self_norm;
    PackedLinear qkv, self_output;
    Cross cross[2];  // by track
    LayerNorm feed_forward_norm;
    PackedLinear up, down;
  };
  struct HeadLevel {
    PackedLinear bits;  // from the bits of the levels before; empty at level 0
    PackedLinear output;
  };
  // What the parts of a step share; pointers into scratch.
  struct Work;

  Work work_in(float* scratch, int count) const;
  void attend_self(const Kernels& kernels, const StateLayout& layout, int layer, const Work& work) const;
  void attend_track(const Kernels& kernels, const StateLayout& layout, int layer, int track, const Work& work) const;
  void sample(const Kernels& kernels, const Work& work) const;

  unils_stream_sizes sizes_ = {};
  int head_width_ = 0;
  float score_scale_ = 0.0f;
  Rope rope_;
  PackedLinear token_;
  const float* start_ = nullptr;
  const float* look_ahead_[2] = {};  // by track: (max + 1, W)
  const float* style_null_ = nullptr;
  std::vector<Block> blocks_;
  LayerNorm norm_;
  PackedLinear hidden_;  // of all levels: (L * F, W)
  std::vector<HeadLevel> head_;
};

}  // namespace unils
