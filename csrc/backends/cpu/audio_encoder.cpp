#include "backends/cpu/audio_encoder.h"

#include "backends/cpu/batch.h"

namespace unils {

AudioEncoder::AudioEncoder(Packer* packer, const unils_stream_sizes& sizes)
    : sizes_(sizes), rope_(sizes.width / sizes.heads) {
  mel_mean_ = packer->values("audio_encoder.mel_mean");
  mel_std_ = packer->values("audio_encoder.mel_std");
  stack_ = CausalStack(packer, "audio_encoder", sizes.audio_width, sizes.audio_depth, sizes.audio_kernel,
                       sizes.audio_expansion);
  for (int track = 0; track < 2; ++track) {
    std::vector<std::string> names;
    for (int layer = 0; layer < sizes.depth; ++layer) {
      const std::string cross =
          "generator.blocks." + std::to_string(layer) + (track == 0 ? ".cross_self" : ".cross_other");
      names.push_back(cross + ".key");
      names.push_back(cross + ".value");
    }
    keys_values_[track] = packer->linear(names.data(), names.size());
  }
}

int AudioEncoder::scratch_floats(int count) const {
  const int one = round_to_block(sizes_.row_values) + round_to_block(sizes_.audio_width) +
                  round_to_block(2 * sizes_.depth * sizes_.width);
  return count * one + 2 * round_to_block(sizes_.width / sizes_.heads) + stack_.scratch_floats(count);
}

void AudioEncoder::push_rows(const Kernels& kernels, const StateLayout& layout, const unils_row_request* requests,
                             int count, float* scratch) const {
  const int input_stride = round_to_block(sizes_.row_values), row_stride = round_to_block(sizes_.audio_width);
  const int keys_stride = round_to_block(2 * sizes_.depth * sizes_.width);
  float* inputs = scratch;
  float* rows = inputs + count * input_stride;
  float* keys_values = rows + count * row_stride;
  float* cosines = keys_values + count * keys_stride;
  float* sines = cosines + round_to_block(sizes_.width / sizes_.heads);
  float* stack_scratch = sines + round_to_block(sizes_.width / sizes_.heads);

  // Rows of one track lie together: each has keys and values of its own.
  const unils_row_request* by_track[kMaxBatchRows];
  int of_track[2] = {};
  for (int track = 0, s = 0; track < 2; ++track) {
    for (int i = 0; i < count; ++i) {
      if (requests[i].track == track) by_track[s++] = &requests[i], ++of_track[track];
    }
  }
  CausalStack::Stream streams[kMaxBatchRows];
  for (int s = 0; s < count; ++s) {
    const unils_row_request& request = *by_track[s];
    float* input = inputs + s * input_stride;
    for (int i = 0; i < sizes_.row_values; i += sizes_.mels) {
      for (int mel = 0; mel < sizes_.mels; ++mel) {
        input[i + mel] = (request.log_mel[i + mel] - mel_mean_[mel]) / mel_std_[mel];
      }
    }
    streams[s] = {&layout.audio[request.track], request.state, request.row, rows + s * row_stride};
  }
  stack_.step(kernels, streams, count, inputs, input_stride, stack_scratch);
  kernels.linear(keys_values_[0], rows, row_stride, keys_values, keys_stride, of_track[0], false);
  kernels.linear(keys_values_[1], rows + of_track[0] * row_stride, row_stride, keys_values + of_track[0] * keys_stride,
                 keys_stride, of_track[1], false);

  for (int s = 0; s < count; ++s) {
    const unils_row_request& request = *by_track[s];
    rope_.row(request.row, cosines, sines);
    for (int layer = 0; layer < sizes_.depth; ++layer) {
      float* key = keys_values + s * keys_stride + 2 * layer * sizes_.width;
      rope_.rotate(key, sizes_.heads, cosines, sines, key);
      layout.cross[request.track].write(request.state, layer, request.row, key, key + sizes_.width);
    }
  }
}

}  // namespace unils
