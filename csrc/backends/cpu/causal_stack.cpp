#include "backends/cpu/causal_stack.h"

#include <algorithm>

namespace unils {

CausalStack::CausalStack(Packer* packer, const std::string& name, int width, int depth, int kernel, int expansion)
    : width_(width), kernel_(std::min(kernel, kMaxKernel)), expansion_(expansion) {
  input_ = packer->linear({name + ".input"});
  for (int i = 0; i < depth; ++i) {
    const std::string block = name + ".blocks." + std::to_string(i);
    Block packed;
    packed.conv_weight = packer->transposed(block + ".conv.weight");
    packed.conv_bias = packer->values(block + ".conv.bias");
    packed.norm = pack_norm(packer, block + ".norm");
    packed.up = packer->linear({block + ".up"});
    packed.down = packer->linear({block + ".down"});
    blocks_.push_back(packed);
  }
  norm_ = pack_norm(packer, name + ".norm");
}

void CausalStack::step(const Kernels& kernels, const RowRing& history, void* memory, int64_t position, const float* input,
                       float* scratch, float* out) const {
  float* x = scratch;
  float* h = x + round_to_block(width_);
  float* wide = h + round_to_block(width_);
  kernels.linear(input_, input, 0, x, 0, 1, false);
  int i = 0;
  for (const Block& block : blocks_) {
    std::copy(x, x + width_, history.row(memory, i, position));
    const float* rows[kMaxKernel];
    for (int tap = 0; tap < kernel_; ++tap) {
      const int64_t at = position - (kernel_ - 1) + tap;
      rows[tap] = at < 0 ? nullptr : history.row(memory, i, at);
    }
    kernels.depthwise(block.conv_weight, block.conv_bias, rows, kernel_, width_, h);
    kernels.layer_norm(h, block.norm.weight, block.norm.bias, h, width_);
    kernels.linear(block.up, h, 0, wide, 0, 1, false);
    kernels.gelu(wide, expansion_ * width_);
    kernels.linear(block.down, wide, 0, x, 0, 1, true);
    ++i;
  }
  kernels.layer_norm(x, norm_.weight, norm_.bias, out, width_);
}

}  // namespace unils
