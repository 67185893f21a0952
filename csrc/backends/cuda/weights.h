// Weights: a model's tensors in one block on the device, laid out as its kernels read them.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "backends/cuda/device_memory.h"
#include "engine/state_layout.h"
#include "features/log_mel.h"
#include "kernels/cuda/cuda_kernels.h"
#include "unils/backend.h"

namespace unils::cuda {

// Linear input, causal blocks, LayerNorm: the trunk of the audio encoder and of both halves of the codec.
struct Stack {
  struct Block {
    const float *conv_weight, *conv_bias;  // (kernel, width), (width)
    LayerNormAt norm;
    Linear up, down;
  };
  int width = 0, kernel = 0, expansion = 0;
  Linear input = {};
  std::vector<Block> blocks;
  LayerNormAt norm = {};
};

struct Weights {
  struct Cross {
    LayerNormAt norm;
    Linear query, output;
  };
  struct Block {
    LayerNormAt self_norm;
    Linear qkv, self_output;
    Cross cross[2];  // by track
    LayerNormAt feed_forward_norm;
    Linear up, down;
  };

  LogMelTables log_mel = {};
  const float *mel_mean = nullptr, *mel_std = nullptr;
  Stack audio;
  Linear keys_values[2] = {};  // by track: (depth, [key; value], W)

  const float *token_weight = nullptr, *token_bias = nullptr, *start = nullptr;
  const float* look_ahead[2] = {};
  const double* frequencies = nullptr;  // of RoPE
  std::vector<Block> blocks;
  LayerNormAt norm = {};
  Linear hidden = {};  // of all levels: (L * F, W)
  const float *head_bits = nullptr, *head_output = nullptr, *head_bias = nullptr;  // see DepthHeadCall
  const float* gains = nullptr;

  Stack decoder;
  Linear decoder_output = {};
  const float *motion_mean = nullptr, *motion_std = nullptr;

  // Not read by steps.
  Stack encoder;
  Linear encoder_output = {}, style_up = {}, style_down = {};
  const float* style_null = nullptr;  // (S, W)

  size_t step_bytes = 0;  // of what steps read
  size_t bytes = 0;
  DeviceMemory block;

  // element: of matrix products. UNILS_ERROR_OUT_OF_MEMORY, UNILS_ERROR_BACKEND.
  static Status upload(const unils_model_spec& spec, Element element, cudaStream_t stream, Weights* weights);

 private:
  class Packer;
  void lay_out(Packer* packer, const unils_model_spec& spec);
};

}  // namespace unils::cuda
