// What a frame begins as: its token, from the bits of the frame before, and the angles of its position.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device.h"

namespace unils::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) token_kernel(TokenCall call) {
  UNILS_DYNAMIC_SHARED(float, bits);  // (call.bits)
  const int step = static_cast<int>(blockIdx.x);
  if (step >= call.steps->count) return;
  const Place place = call.places[step];
  for (int i = thread_index(); i < call.bits; i += thread_count()) bits[i] = place.state[call.bits_offset + i];
  __syncthreads();

  const int width = call.width, without = call.sampling[step].row_without_audio;
  const float* heard_self = call.look_ahead_embedding[0] + int64_t{call.look_ahead[0][step]} * width;
  const float* heard_other = call.look_ahead_embedding[1] + int64_t{call.look_ahead[1][step]} * width;
  for (int o = thread_index(); o < width; o += thread_count()) {
    float x = call.start[o];
    if (place.position > 0) {
      x = call.bias[o];
#pragma unroll 8
      for (int i = 0; i < call.bits; ++i) x = fmaf(call.weight[int64_t{i} * width + o], bits[i], x);
    }
    if (without >= 0) call.x[int64_t{without} * width + o] = x;
    call.x[int64_t{step} * width + o] = x + (heard_self[o] + heard_other[o]);
  }

  const int pairs = call.head_width / 2;
  for (int i = thread_index(); i < pairs; i += thread_count()) {
    const double angle = static_cast<double>(place.position) * call.frequencies[i];
    call.cosines[int64_t{step} * pairs + i] = static_cast<float>(cos(angle));
    call.sines[int64_t{step} * pairs + i] = static_cast<float>(sin(angle));
  }
}

}  // namespace

void token(const TokenCall& call, cudaStream_t stream) {
  launch(token_kernel, dim3(static_cast<unsigned>(call.max_steps)), kThreads,
         static_cast<size_t>(call.bits) * sizeof(float), stream, call);
}

}  // namespace unils::cuda
