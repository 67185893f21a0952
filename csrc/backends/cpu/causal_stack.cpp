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

void CausalStack::step(const Kernels& kernels, const Stream* streams, int count, const float* inputs,
                       int64_t input_stride, float* scratch) const {
  const int stride = round_to_block(width_), wide_stride = round_to_block(expansion_ * width_);
  float* x = scratch;
  float* h = x + count * stride;
  float* wide = h + count * stride;
  kernels.linear(input_, inputs, input_stride, x, stride, count, false);
  int i = 0;
  for (const Block& block : blocks_) {
    for (int s = 0; s < count; ++s) {
      const Stream& stream = streams[s];
      const float* from = x + s * stride;
      std::copy(from, from + width_, stream.history->row(stream.memory, i, stream.position));
      const float* rows[kMaxKernel];
      for (int tap = 0; tap < kernel_; ++tap) {
        const int64_t at = stream.position - (kernel_ - 1) + tap;
        rows[tap] = at < 0 ? nullptr : stream.history->row(stream.memory, i, at);
      }
      float* to = h + s * stride;
      kernels.depthwise(block.conv_weight, block.conv_bias, rows, kernel_, width_, to);
      kernels.layer_norm(to, block.norm.weight, block.norm.bias, to, width_);
    }
    kernels.linear(block.up, h, stride, wide, wide_stride, count, false);
    for (int s = 0; s < count; ++s) kernels.gelu(wide + s * wide_stride, expansion_ * width_);
    kernels.linear(block.down, wide, wide_stride, x, stride, count, true);
    ++i;
  }
  for (int s = 0; s < count; ++s) kernels.layer_norm(x + s * stride, norm_.weight, norm_.bias, streams[s].out, width_);
}

}  // namespace unils
