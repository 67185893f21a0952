#include "backends/cpu/motion_decoder.h"

#include "backends/cpu/batch.h"
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

int MotionDecoder::scratch_floats(int count) const {
  return count * (round_to_block(sizes_.bits) + round_to_block(sizes_.codec_width) + round_to_block(sizes_.channels)) +
         stack_.scratch_floats(count);
}

void MotionDecoder::step(const Kernels& kernels, const StateLayout& layout, const unils_step_request* requests,
                         int count, float* scratch) const {
  const int latent_stride = round_to_block(sizes_.bits), row_stride = round_to_block(sizes_.codec_width);
  const int normal_stride = round_to_block(sizes_.channels);
  float* latents = scratch;
  float* rows = latents + count * latent_stride;
  float* normal = rows + count * row_stride;
  float* stack_scratch = normal + count * normal_stride;
  CausalStack::Stream streams[kMaxBatch];
  for (int i = 0; i < count; ++i) {
    const unils_step_request& request = requests[i];
    bits_to_latent(arena_at<float>(request.state, layout.bits), gains_.data(), sizes_.levels, sizes_.bits,
                   latents + i * latent_stride);
    streams[i] = {&layout.decoder, request.state, request.frame, rows + i * row_stride};
  }
  stack_.step(kernels, streams, count, latents, latent_stride, stack_scratch);
  kernels.linear(output_, rows, row_stride, normal, normal_stride, count, false);
  for (int i = 0; i < count; ++i) {
    const float* from = normal + i * normal_stride;
    for (int c = 0; c < sizes_.channels; ++c) requests[i].motion[c] = from[c] * motion_std_[c] + motion_mean_[c];
  }
}

}  // namespace unils
