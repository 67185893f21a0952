// What a style clip takes besides the codec's encoder: its normalisation, residual BSQ of its rows, and their pooling to
// style tokens.
#include "core/bits.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device.h"

namespace unils::cuda {
namespace {

// A warp a row, all of them.
__global__ void __launch_bounds__(kWarp)
    normalise_kernel(const RowRange* rows, const float* mean, const float* std, int n, float* x) {
  const int r = static_cast<int>(blockIdx.x);
  if (r >= rows->count) return;
  for (int i = lane_index(); i < n; i += kWarp) x[int64_t{r} * n + i] = (x[int64_t{r} * n + i] - mean[i]) / std[i];
}

__global__ void __launch_bounds__(kWarp)
    quantise_kernel(const RowRange* rows, const float* gains, int levels, int d, float* z) {
  const int r = static_cast<int>(blockIdx.x);
  if (r >= rows->count) return;
  float* row = z + int64_t{r} * d;
  float squares = 0.0f;
  for (int i = lane_index(); i < d; i += kWarp) squares = fmaf(row[i], row[i], squares);
  const float length = fmaxf(sqrtf(warp_sum(squares)), 1e-6f);
  for (int i = lane_index(); i < d; i += kWarp) row[i] = quantised_value(row[i] / length, gains, levels, d);
}

__global__ void __launch_bounds__(kWarp)
    pool_kernel(const RowRange* rows, int tokens, int d, const float* latents, float* pooled) {
  const int64_t j = blockIdx.x, n = rows->count;
  const int64_t begin = j * n / tokens, end = ((j + 1) * n + tokens - 1) / tokens;
  for (int i = lane_index(); i < d; i += kWarp) {
    float sum = 0.0f;
    for (int64_t row = begin; row < end; ++row) sum += latents[row * d + i];
    pooled[j * d + i] = sum / static_cast<float>(end - begin);
  }
}

}  // namespace

void normalise_rows(const RowRange* rows, int max_rows, const float* mean, const float* std, int n, float* x,
                    cudaStream_t stream) {
  launch(normalise_kernel, dim3(static_cast<unsigned>(max_rows)), kWarp, 0, stream, rows, mean, std, n, x);
}

void quantise_rows(const RowRange* rows, int max_rows, const float* gains, int levels, int d, float* z,
                   cudaStream_t stream) {
  launch(quantise_kernel, dim3(static_cast<unsigned>(max_rows)), kWarp, 0, stream, rows, gains, levels, d, z);
}

void pool_rows(const RowRange* rows, int tokens, int d, const float* latents, float* pooled, cudaStream_t stream) {
  launch(pool_kernel, dim3(static_cast<unsigned>(tokens)), kWarp, 0, stream, rows, tokens, d, latents, pooled);
}

}  // namespace unils::cuda
