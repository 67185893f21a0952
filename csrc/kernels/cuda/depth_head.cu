// The depth head: levels in their order, each from the bits of those before it; guidance; sampling (engine/sampler.h).
#include "core/bits.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device.h"

namespace unils::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
// Steps that a block makes together, so that it reads the weights once for all of them. Fewer than fill the device are
// better made one a block.
constexpr int kGroup = 4, kLoneSteps = 256;

// For each step: its bits, its hidden rows and their logits, with and without audio.
__host__ __device__ inline int64_t step_floats(int levels, int bits, int head_width) {
  return int64_t{levels} * bits + 2 * (int64_t{head_width} + bits);
}

template <int kSteps>
__global__ void __launch_bounds__(kThreads) depth_head_kernel(DepthHeadCall call) {
  UNILS_DYNAMIC_SHARED(float, shared);
  const int first = static_cast<int>(blockIdx.x) * kSteps;
  const int left = call.steps->count - first, steps = left < kSteps ? left : kSteps;
  if (steps <= 0) return;
  const int F = call.head_width, d = call.bits, all_bits = call.levels * d;
  float* bits = shared;                          // (kSteps, all_bits)
  float* hidden = bits + kSteps * all_bits;      // (kSteps, 2, F)
  float* logits = hidden + kSteps * 2 * F;       // (kSteps, 2, d)

  const float* bits_weight = call.bits_weight;
  for (int level = 0; level < call.levels; ++level) {
    const int known = level * d;
    for (int f = thread_index(); f < F; f += thread_count()) {
      float term[kSteps] = {};
#pragma unroll 8
      for (int i = 0; i < known; ++i) {
        const float weight = bits_weight[int64_t{i} * F + f];
        for (int s = 0; s < kSteps; ++s) term[s] = fmaf(weight, s < steps ? bits[s * all_bits + i] : 0.0f, term[s]);
      }
      for (int s = 0; s < steps; ++s) {
        const int without = call.sampling[first + s].row_without_audio;
        const float* of_level = call.hidden + level * F + f;
        const int64_t row_floats = int64_t{call.levels} * F;
        hidden[2 * s * F + f] = gelu(of_level[(first + s) * row_floats] + term[s]);
        if (without >= 0) hidden[(2 * s + 1) * F + f] = gelu(of_level[without * row_floats] + term[s]);
      }
    }
    bits_weight += int64_t{known} * F;
    __syncthreads();

    const float* weights = call.output_weight + int64_t{level} * d * F;
    for (int o = warp_index(); o < 2 * steps * d; o += kWarps) {
      const int row = o / d, bit = o % d;
      if (row % 2 == 1 && call.sampling[first + row / 2].row_without_audio < 0) continue;
      const float* weight = weights + int64_t{bit} * F;
      float sum = 0.0f;
      for (int f = lane_index(); f < F; f += kWarp) sum = fmaf(weight[f], hidden[row * F + f], sum);
      sum = warp_sum(sum);
      if (lane_index() == 0) logits[o] = sum + call.output_bias[level * d + bit];
    }
    __syncthreads();

    for (int i = thread_index(); i < steps * d; i += thread_count()) {
      const int s = i / d, bit = i % d, step = first + s;
      const Sampling sampling = call.sampling[step];
      float logit = logits[2 * s * d + bit];
      if (sampling.row_without_audio >= 0) {
        const float c = sampling.cfg_scale;
        logit = c * logit + (1.0f - c) * logits[(2 * s + 1) * d + bit];
      }
      const bool set = sample_bit(logit, sampling.temperature, sampling.top_p, sampling.seed,
                                  call.places[step].position, level, bit);
      bits[s * all_bits + known + bit] = set ? 1.0f : -1.0f;
      call.logits[int64_t{step} * all_bits + known + bit] = logit;
    }
    __syncthreads();
  }

  for (int i = thread_index(); i < steps * all_bits; i += thread_count()) {
    const int s = i / all_bits;
    call.places[first + s].state[call.bits_offset + i % all_bits] = bits[i];
  }
  for (int i = thread_index(); i < steps * d; i += thread_count()) {
    const int s = i / d;
    call.latent[(first + int64_t{s}) * d + i % d] = latent_value(bits + s * all_bits, call.gains, call.levels, d, i % d);
  }
}

template <int kSteps>
void depth_head_of(const DepthHeadCall& call, cudaStream_t stream) {
  const auto bytes =
      static_cast<size_t>(kSteps * step_floats(call.levels, call.bits, call.head_width)) * sizeof(float);
  launch(depth_head_kernel<kSteps>, dim3(blocks_of(call.max_steps, kSteps)), kThreads, bytes, stream, call);
}

}  // namespace

void depth_head(const DepthHeadCall& call, cudaStream_t stream) {
  call.max_steps <= kLoneSteps ? depth_head_of<1>(call, stream) : depth_head_of<kGroup>(call, stream);
}

size_t depth_head_shared_bytes(int levels, int bits, int head_width) {
  return static_cast<size_t>(kGroup * step_floats(levels, bits, head_width)) * sizeof(float);
}

cudaError_t allow_depth_head_shared_bytes(size_t bytes) {
  const cudaError_t lone = cudaFuncSetAttribute(
      depth_head_kernel<1>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (lone != cudaSuccess) return lone;
  return cudaFuncSetAttribute(depth_head_kernel<kGroup>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
}

}  // namespace unils::cuda
