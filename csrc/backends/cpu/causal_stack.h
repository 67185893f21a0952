// CausalStack: linear input, causal blocks, LayerNorm: the trunk of the audio encoder and of both halves of the codec
// (docs/stream-model.md, "Causal block"), one row of a batch of streams at a time.
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

  struct Stream {
    const RowRing* history = nullptr;  // of the blocks' earlier inputs, which this row's join
    void* memory = nullptr;            // that the ring lies in
    int64_t position = 0;              // of the row
    float* out = nullptr;              // (width)
  };

  // Scratch for `count` streams.
  int scratch_floats(int count) const {
    return count * (2 * round_to_block(width_) + round_to_block(expansion_ * width_));
  }

  // The next row of `count` streams in one pass over the weights; inputs: one row a stream. Each comes out as it would
  // alone.
  void step(const Kernels& kernels, const Stream* streams, int count, const float* inputs, int64_t input_stride,
            float* scratch) const;

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
