#include "backends/cpu/motion_decoder.h"

#include "engine/sampler.h"

namespace unils {

MotionDecoder::MotionDecoder(Packer* packer, const unils_stream_sizes& sizes, const float* gains)
    : sizes_(sizes), gains_(gains, gains + sizes.levels) {
  stack_ = CausalStack(packer, "codec.decoder", sizes.codec_width, sizes.codec_depth, sizes.codec_kernel,
                       sizes.codec_expansion);
  output_ = packer->linear({"codec.decoder.output"});
  motion_mean_ = packer->values("codec.motion_mean");
  motion_std_ = packer->values("codec.motion_std");
}

int MotionDecoder::scratch_floats() const {
  return stack_.scratch_floats() + round_to_block(sizes_.bits) + round_to_block(sizes_.codec_width);
}

void MotionDecoder::step(const Kernels& kernels, const StateLayout& layout, void* state, int64_t frame,
                         const float* bits, float* scratch, float* motion) const {
  float* latent = scratch;
  float* row = latent + round_to_block(sizes_.bits);
  float* stack_scratch = row + round_to_block(sizes_.codec_width);
  bits_to_latent(bits, gains_.data(), sizes_.levels, sizes_.bits, latent);
  const CausalStack::Stream stream = {&layout.decoder, state, frame, row};
  stack_.step(kernels, &stream, 1, latent, 0, stack_scratch);
  kernels.linear(output_, row, 0, motion, 0, 1, false);
  for (int i = 0; i < sizes_.channels; ++i) motion[i] = motion[i] * motion_std_[i] + motion_mean_[i];
}

}  // namespace unils
