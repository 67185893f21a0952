#include "backends/cpu/style_encoder.h"

#include <algorithm>

#include "engine/sampler.h"

namespace unils {

StyleEncoder::StyleEncoder(Packer* packer, const unils_stream_sizes& sizes, const float* gains)
    : sizes_(sizes), gains_(gains, gains + sizes.levels) {
  motion_mean_ = packer->values("codec.motion_mean");
  motion_std_ = packer->values("codec.motion_std");
  stack_ = CausalStack(packer, "codec.encoder", sizes.codec_width, sizes.codec_depth, sizes.codec_kernel,
                       sizes.codec_expansion);
  output_ = packer->linear({"codec.encoder.output"});
  up_ = packer->linear({"generator.style.up"});
  down_ = packer->linear({"generator.style.down"});
  ArenaLayout arena;
  history_ = RowRing(&arena, sizes.codec_depth, sizes.codec_width, sizes.codec_kernel);
  history_bytes_ = arena.bytes();
}

size_t StyleEncoder::scratch_floats() const {
  return history_bytes_ / sizeof(float) + size_t{UNILS_STYLE_MAX_FRAMES} * static_cast<size_t>(sizes_.bits) +
         static_cast<size_t>(round_to_block(sizes_.channels) + round_to_block(sizes_.codec_width) +
                             round_to_block(sizes_.bits) + round_to_block(sizes_.width) + stack_.scratch_floats(1));
}

void StyleEncoder::encode(const Kernels& kernels, const float* motion, int64_t frames, float* scratch,
                          float* tokens) const {
  const int D = sizes_.channels, d = sizes_.bits, S = sizes_.style_tokens, W = sizes_.width;
  float* history = scratch;
  float* normal = history + history_bytes_ / sizeof(float);
  float* row = normal + round_to_block(D);
  float* pooled = row + round_to_block(sizes_.codec_width);
  float* hidden = pooled + round_to_block(d);
  float* stack_scratch = hidden + round_to_block(W);
  float* latents = stack_scratch + stack_.scratch_floats(1);  // (frames, d)

  for (int64_t frame = 0; frame < frames; ++frame) {
    for (int i = 0; i < D; ++i) normal[i] = (motion[frame * D + i] - motion_mean_[i]) / motion_std_[i];
    const CausalStack::Stream stream = {&history_, history, frame, row};
    stack_.step(kernels, &stream, 1, normal, 0, stack_scratch);
    kernels.linear(output_, row, 0, latents + frame * d, 0, 1, false);
    quantise(latents + frame * d, gains_.data(), sizes_.levels, d);
  }
  for (int64_t j = 0; j < S; ++j) {
    const int64_t begin = j * frames / S, end = ((j + 1) * frames + S - 1) / S;
    std::fill(pooled, pooled + d, 0.0f);
    for (int64_t frame = begin; frame < end; ++frame) {
      for (int i = 0; i < d; ++i) pooled[i] += latents[frame * d + i];
    }
    for (int i = 0; i < d; ++i) pooled[i] /= static_cast<float>(end - begin);
    kernels.linear(up_, pooled, 0, hidden, 0, 1, false);
    kernels.gelu(hidden, W);
    kernels.linear(down_, hidden, 0, tokens + j * W, 0, 1, false);
  }
}

}  // namespace unils
