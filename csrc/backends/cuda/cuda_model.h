// CudaModel: the weights on the device, and where its kernels find what lies in a session's state block.
#pragma once
#include <memory>

#include "backends/cuda/device_memory.h"
#include "backends/cuda/weights.h"
#include "engine/state_layout.h"
#include "kernels/cuda/cuda_kernels.h"

namespace unils::cuda {

struct CudaModel {
  // UNILS_ERROR_BUNDLE, UNILS_ERROR_OUT_OF_MEMORY, UNILS_ERROR_BACKEND. Throws std::bad_alloc.
  static Status create(const unils_model_spec& spec, std::unique_ptr<CudaModel>* model);
  explicit CudaModel(const unils_model_spec& spec);

  static constexpr int kDevice = 0;  // of those that CUDA_VISIBLE_DEVICES leaves

  unils_stream_sizes sizes;
  unils_features features;
  StateLayout layout;
  int64_t bits = 0, history[2] = {};  // offsets in a state, in floats
  KvRingAt style = {}, self[2] = {}, cross[2] = {};
  RowRingAt audio[2] = {}, decoder = {};

  Weights weights;
  Stream stream;            // of what is not a step; calls wait for it themselves
  DeviceMemory null_state;  // a session before its first frame, without a style

  int head_width() const { return sizes.width / sizes.heads; }
  int all_bits() const { return sizes.levels * sizes.bits; }

  Status create_states(int32_t count, void** states) const;
  Status read_state(const void* state, void* block) const;
  Status write_state(void* state, const void* block) const;
  Status reset(void* state) const;
  Status device_put(const float* values, int64_t count, unils_device_array* array) const;

 private:
  Status allow_shared_memory() const;
};

}  // namespace unils::cuda
