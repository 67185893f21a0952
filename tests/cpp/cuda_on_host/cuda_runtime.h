// A CUDA device played by the host, so that kernels and the backend around them run, and are tested, where there is no
// GPU. First in the include path it stands for the toolkit's header: the same sources compile against either.
//
// Blocks run one after the other, the threads of a block as fibers that give way at barriers and warp exchanges, in an
// order that a seed can permute: what depends on the order is a race, and comes out different. Work on a stream waits
// until something synchronizes, and between that device memory cannot be read (without ASan, which guards its bounds
// instead), so that what a real device would not have done yet is not there. Fresh memory holds NaN. Faults can be
// injected into every call.
#pragma once
#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the thread that runs

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorDeviceUnavailable = 46,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorIllegalAddress = 700,
  cudaErrorStreamCaptureUnsupported = 900
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
constexpr unsigned cudaStreamNonBlocking = 1;
constexpr unsigned cudaHostAllocDefault = 0;
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlockOptin;
  int major, minor, multiProcessorCount;
};
struct CUstream_st;
struct CUgraph_st;
struct CUgraphExec_st;
using cudaStream_t = CUstream_st*;
using cudaGraph_t = CUgraph_st*;
using cudaGraphExec_t = CUgraphExec_st*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaMalloc(void** memory, size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);

namespace cuda_on_host {

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread);
cudaError_t set_shared_limit(const void* kernel, int bytes);
// Every thread of the warp gives `bytes` and sees those of all lanes: (32, kSlotBytes) until its next exchange.
constexpr size_t kSlotBytes = 32;
const char* exchange(const void* mine, size_t bytes);
int lane();
void* dynamic_shared();  // of the block that runs

// d += a b as mma.sync.m16n8k16 has it, fragments as the PTX manual lays them out.
void mma_16x8x16(float* d, const uint32_t* a, const uint32_t* b, bool bf16);

// What tests turn.
void permute(uint32_t seed);  // order of threads and blocks; 0: by index
// The `calls`-th call from now fails with `error`; when sticky, so do all that follow, until fail(0). 0: none fails.
void fail(int64_t calls, cudaError_t error = cudaSuccess, bool sticky = false);
void set_device(int count, int major);  // devices there are, and their compute capability
void limit_memory(size_t bytes);        // of the device; 0: no limit
struct Counts {
  int64_t calls, allocations, launches;  // so far; allocations of either memory
  int64_t blocks_held, objects_held;     // allocations, and streams and graphs, not freed
};
Counts counts();

}  // namespace cuda_on_host

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  // Arguments are copied when a kernel is launched, not when it runs.
  return [&](Parameters... copies) {
    return cuda_on_host::launch(*config, reinterpret_cast<const void*>(kernel), [=] { kernel(copies...); });
  }(std::forward<Arguments>(arguments)...);
}
template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int value) {
  return cuda_on_host::set_shared_limit(reinterpret_cast<const void*>(kernel), value);
}

void __syncthreads();
inline void __syncwarp(unsigned = 0xffffffff) { cuda_on_host::exchange(nullptr, 0); }
template <typename T>
T __shfl_sync(unsigned, T value, int source) {
  static_assert(sizeof(T) <= cuda_on_host::kSlotBytes);
  T other;
  std::memcpy(&other, cuda_on_host::exchange(&value, sizeof value) + (source & 31) * cuda_on_host::kSlotBytes,
              sizeof other);
  return other;
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return __shfl_sync(mask, value, cuda_on_host::lane() ^ lanes);
}
