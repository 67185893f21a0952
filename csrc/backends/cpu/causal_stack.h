// CausalStack: linear input, causal blocks, LayerNorm: the trunk of the audio encoder and of both halves of the codec
// (docs/stream-model.md, "Causal block"), one row at a time.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "backends/cpu/packer.h"
#include "engine/row_ring.h"

namespace unils {

struct LayerNorm {
  const float* weight = nullptr;
  const float* bias = nullptr;
};

inline LayerNorm pack_norm(Packer* packer, const std::string& name) {
  return {packer->values(name + ".weight"), packer->values(name + ".bias")};
}

class CausalStack {
 public:
  CausalStack() = default;
  CausalStack(Packer* packer, const std::string& name, int width, int depth, int kernel, int expansion);

  int width() const { return width_; }
  // Scratch for step.
  int scratch_floats() const { return round_to_block(width_) * 2 + round_to_block(expansion_ * width_); }

  // input: one row of the stack's inputs, at `position`; the blocks' earlier inputs are in `history` (ring and its block
  // of memory) and this row's join them. out: (width).
  void step(const Kernels& kernels, const RowRing& history, void* memory, int64_t position, const float* input,
            float* scratch, float* out) const;

 private:
  static constexpr int kMaxKernel = 64;

  struct Block {
    const float* conv_weight;  // (kernel, width)
    const float* conv_bias;
    LayerNorm norm;
    PackedLinear up, down;
  };
  int width_ = 0, kernel_ = 0, expansion_ = 0;
  PackedLinear input_;
  std::vector<Block> blocks_;
  LayerNorm norm_;
};

}  // namespace unils
