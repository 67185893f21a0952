// What kernels share: how they are launched, sums of a warp and of a block, shared memory, tensor cores.
//
// Every .cu file also compiles as C++ for the CUDA device that tests play on the host (tests/cpp/cuda_on_host): what
// g++ cannot read is kept in this file.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/float16.h"

namespace unils::cuda {

#if defined(__CUDACC__)
#define UNILS_DYNAMIC_SHARED(Type, name)           \
  extern __shared__ float4 unils_dynamic_shared[]; \
  Type* const name = reinterpret_cast<Type*>(unils_dynamic_shared)
#else
#define UNILS_DYNAMIC_SHARED(Type, name) Type* const name = static_cast<Type*>(cuda_on_host::dynamic_shared())
#endif

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffff;

// An error of a launch is the thread's last error, which whoever launched a sequence asks for at its end.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes, cudaStream_t stream,
            const Arguments&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  static_cast<void>(cudaLaunchKernelEx(&config, kernel, arguments...));
}

inline unsigned blocks_of(int64_t things, int per_block) {
  return static_cast<unsigned>((things + per_block - 1) / per_block);
}

__device__ inline int thread_index() { return static_cast<int>(threadIdx.x); }
__device__ inline int thread_count() { return static_cast<int>(blockDim.x); }
__device__ inline int lane_index() { return thread_index() % kWarp; }
__device__ inline int warp_index() { return thread_index() / kWarp; }

// The same value in every lane, added up in an order of its own whichever threads run first.
__device__ inline float warp_sum(float value) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
  return value;
}
__device__ inline float warp_max(float value) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, lanes));
  return value;
}

// Mean and 1 / deviation of x (n), by a whole warp; in every lane.
struct Moments {
  float mean, scale;
};
__device__ inline Moments warp_moments(const float* x, int n) {
  float sum = 0.0f, squares = 0.0f;
  for (int i = lane_index(); i < n; i += kWarp) sum += x[i];
  const float mean = warp_sum(sum) / static_cast<float>(n);
  for (int i = lane_index(); i < n; i += kWarp) squares = fmaf(x[i] - mean, x[i] - mean, squares);
  return {mean, 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(n) + 1e-5f)};
}

__device__ inline float gelu(float x) {
  constexpr float kSqrt2OverPi = 0.7978845608028654f;
  return 0.5f * x * (1.0f + tanhf(kSqrt2OverPi * fmaf(0.044715f * x * x, x, x)));
}

// Begins to bring the line of memory around `at` to the L2 cache.
__device__ inline void prefetch([[maybe_unused]] const float* at) {
#if defined(__CUDA_ARCH__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
#endif
}

// Two floats rounded to 16 bits each, `low` in the low half.
__device__ inline uint32_t pack_pair(float low, float high, bool bf16) {
#if defined(__CUDA_ARCH__)
  uint32_t pair;
  if (bf16) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
#elif !defined(__CUDACC__)
  return bf16 ? uint32_t{bf16_of(low)} | uint32_t{bf16_of(high)} << 16
              : uint32_t{fp16_of(low)} | uint32_t{fp16_of(high)} << 16;
#else
  return 0;  // never compiled into anything
#endif
}

// d (16, 8) += a (16, 16) b (16, 8), fragments as PTX has them for mma.sync.m16n8k16; by a whole warp.
template <bool kBf16>
__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__)
  if constexpr (kBf16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#elif !defined(__CUDACC__)
  cuda_on_host::mma_16x8x16(d, a, b, kBf16);
#else
  static_cast<void>(d), static_cast<void>(a), static_cast<void>(b);
#endif
}

}  // namespace unils::cuda
