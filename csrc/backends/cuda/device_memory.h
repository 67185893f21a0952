// What the cuda backend owns on the device, freed with its owner; CUDA errors as statuses.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "core/status.h"

namespace unils::cuda {

// doing: "to make a session", as in "the GPU has not enough memory to make a session".
inline Status status_of(cudaError_t code, const char* doing) {
  if (code == cudaSuccess) return Status();
  static_cast<void>(cudaGetLastError());  // what lasts comes again with the next call
  if (code == cudaErrorMemoryAllocation) {
    return error(UNILS_ERROR_OUT_OF_MEMORY, "the GPU has not enough memory %s; close sessions, or use a smaller batch",
                 doing);
  }
  return error(UNILS_ERROR_BACKEND, "the GPU failed %s: %s", doing, cudaGetErrorString(code));
}

#define UNILS_CUDA_RETURN_IF_ERROR(expression, doing) UNILS_RETURN_IF_ERROR(::unils::cuda::status_of((expression), doing))

// There when it returns; cudaMemcpy does not promise that of memory that is not pinned.
inline Status copy_to_device(void* to, const void* from, size_t bytes, cudaStream_t stream, const char* doing) {
  UNILS_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), doing);
  return status_of(cudaStreamSynchronize(stream), doing);
}

// Makes a device current for as long as it lives; whoever called may have another.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    code_ = cudaGetDevice(&before_);
    if (code_ != cudaSuccess || before_ == device) return;
    code_ = cudaSetDevice(device);
    switched_ = code_ == cudaSuccess;
  }
  ~DeviceGuard() {
    if (switched_) static_cast<void>(cudaSetDevice(before_));
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  cudaError_t code() const { return code_; }

 private:
  cudaError_t code_ = cudaSuccess;
  int before_ = 0;
  bool switched_ = false;
};

// A handle of the runtime and what frees it.
template <typename Handle, cudaError_t (*kFree)(Handle)>
class Owned {
 public:
  Owned() = default;
  ~Owned() { reset(); }
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }

  Handle get() const { return handle_; }
  Handle* out() { return &handle_; }  // for a call that makes one
  void reset() {
    if (handle_ != nullptr) static_cast<void>(kFree(std::exchange(handle_, nullptr)));
  }

 private:
  Handle handle_ = nullptr;
};

using DeviceMemory = Owned<void*, cudaFree>;
using PinnedMemory = Owned<void*, cudaFreeHost>;
using Stream = Owned<cudaStream_t, cudaStreamDestroy>;
using Graph = Owned<cudaGraph_t, cudaGraphDestroy>;
using GraphExec = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;

}  // namespace unils::cuda
