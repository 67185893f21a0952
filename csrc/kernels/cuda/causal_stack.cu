// The convolution of a causal block (docs/stream-model.md, "Causal block"), over a ring or over a clip. What follows it
// is two linear layers.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device.h"

namespace unils::cuda {
namespace {

constexpr int kThreads = 128;

// A thread reads and writes its own channels only, so nothing has to wait.
__global__ void __launch_bounds__(kThreads) causal_conv_kernel(CausalConvCall call) {
  const int r = static_cast<int>(blockIdx.x);
  if (r >= call.rows->count) return;
  const int width = call.width, kernel = call.kernel;
  const float* x = call.x + int64_t{r} * width;
  float* y = call.y + int64_t{r} * width;
  const bool clip = call.places == nullptr;
  const Place place = clip ? Place{nullptr, r} : call.places[r];
  const RowRingAt ring = call.tracks == nullptr || call.tracks[r] == 0 ? call.rings[0] : call.rings[1];
  const int64_t before = place.position - (kernel - 1);
  for (int c = thread_index(); c < width; c += thread_count()) {
    if (!clip) ring.row(place.state, call.block, place.position)[c] = x[c];
    float sum = call.bias[c];
    for (int tap = before < 0 ? static_cast<int>(-before) : 0; tap < kernel; ++tap) {
      const float* row = clip ? call.x + (before + tap) * width : ring.row(place.state, call.block, before + tap);
      sum = fmaf(call.weight[int64_t{tap} * width + c], row[c], sum);
    }
    y[c] = sum;
  }
}

}  // namespace

void causal_conv(const CausalConvCall& call, cudaStream_t stream) {
  launch(causal_conv_kernel, dim3(static_cast<unsigned>(call.max_rows)), kThreads, 0, stream, call);
}

}  // namespace unils::cuda
