#include "backends/cuda/cuda_model.h"

#include <algorithm>

#include "backends/cuda/workspace.h"

namespace unils::cuda {
namespace {

int64_t floats(size_t bytes) { return static_cast<int64_t>(bytes / sizeof(float)); }

KvRingAt ring_at(const KvRing& ring) {
  return {floats(ring.offset()), ring.index().capacity(), static_cast<int32_t>(ring.heads()),
          static_cast<int32_t>(ring.head_width()), static_cast<int32_t>(ring.value_stride())};
}
RowRingAt ring_at(const RowRing& ring) {
  return {floats(ring.offset()), ring.index().capacity(), static_cast<int32_t>(ring.width())};
}

}  // namespace

CudaModel::CudaModel(const unils_model_spec& spec)
    : sizes(*spec.sizes), features(*spec.features), layout(sizes, features) {
  bits = floats(layout.bits);
  style = ring_at(layout.style);
  decoder = ring_at(layout.decoder);
  for (int i = 0; i < 2; ++i) {
    history[i] = floats(layout.history[i]);
    self[i] = ring_at(layout.self[i]);
    cross[i] = ring_at(layout.cross[i]);
    audio[i] = ring_at(layout.audio[i]);
  }
}

Status CudaModel::create(const unils_model_spec& spec, std::unique_ptr<CudaModel>* created) {
  auto model = std::make_unique<CudaModel>(spec);
  if (model->layout.bytes > StateLayout::kMaxBytes) {
    return error(UNILS_ERROR_BUNDLE, "a session of this model would hold %zu bytes; at most %zu are supported",
                 model->layout.bytes, StateLayout::kMaxBytes);
  }
  UNILS_RETURN_IF_ERROR(model->allow_shared_memory());
  const Element element = spec.precision == UNILS_FP16   ? Element::kFp16
                          : spec.precision == UNILS_BF16 ? Element::kBf16
                                                         : Element::kFloat32;
  UNILS_CUDA_RETURN_IF_ERROR(cudaStreamCreateWithFlags(model->stream.out(), cudaStreamNonBlocking), "to make a stream");
  UNILS_RETURN_IF_ERROR(Weights::upload(spec, element, model->stream.get(), &model->weights));
  UNILS_CUDA_RETURN_IF_ERROR(cudaMalloc(model->null_state.out(), model->layout.bytes), "for the weights");
  UNILS_CUDA_RETURN_IF_ERROR(cudaMemsetAsync(model->null_state.get(), 0, model->layout.bytes, model->stream.get()),
                             "to make a state");
  UNILS_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(model->stream.get()), "to make a state");
  std::unique_ptr<Workspace> workspace;
  UNILS_RETURN_IF_ERROR(Workspace::create(*model, 1, &workspace));
  UNILS_RETURN_IF_ERROR(workspace->write_null_style(model->null_state.get()));
  *created = std::move(model);
  return Status();
}

// More than what every kernel may take must be asked for.
Status CudaModel::allow_shared_memory() const {
  constexpr size_t kAlways = 48 << 10;
  cudaDeviceProp device = {};
  UNILS_CUDA_RETURN_IF_ERROR(cudaGetDeviceProperties(&device, kDevice), "to say what it is");
  const int slots = static_cast<int>(std::max({sizes.style_tokens + self[0].capacity, cross[0].capacity, cross[1].capacity}));
  const size_t attention = attention_shared_bytes(head_width(), slots);
  const size_t depth_head = depth_head_shared_bytes(sizes.levels, sizes.bits, sizes.head_width);
  if (std::max(attention, depth_head) > device.sharedMemPerBlockOptin || features.fft_size > 2048 ||
      static_cast<size_t>(all_bits()) * sizeof(float) > kAlways) {
    return error(UNILS_ERROR_BACKEND,
                 "this model's heads or windows do not fit the %zu KiB of shared memory of a block on this GPU; run it "
                 "on the backend cpu",
                 device.sharedMemPerBlockOptin >> 10);
  }
  if (attention > kAlways) {
    UNILS_CUDA_RETURN_IF_ERROR(allow_attention_shared_bytes(attention), "to set aside shared memory");
  }
  if (depth_head > kAlways) {
    UNILS_CUDA_RETURN_IF_ERROR(allow_depth_head_shared_bytes(depth_head), "to set aside shared memory");
  }
  return Status();
}

Status CudaModel::create_states(int32_t count, void** states) const {
  const size_t bytes = static_cast<size_t>(count) * layout.bytes;
  DeviceMemory made;
  UNILS_CUDA_RETURN_IF_ERROR(cudaMalloc(made.out(), bytes), "for that many sessions");
  UNILS_CUDA_RETURN_IF_ERROR(cudaMemsetAsync(made.get(), 0, bytes, stream.get()), "to make sessions");
  UNILS_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream.get()), "to make sessions");
  *states = std::exchange(*made.out(), nullptr);
  return Status();
}

Status CudaModel::read_state(const void* state, void* block) const {
  UNILS_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(block, state, layout.bytes, cudaMemcpyDeviceToHost, stream.get()),
                             "to hand over a session's state");
  return status_of(cudaStreamSynchronize(stream.get()), "to hand over a session's state");
}

Status CudaModel::write_state(void* state, const void* block) const {
  return copy_to_device(state, block, layout.bytes, stream.get(), "to take a session's state");
}

Status CudaModel::reset(void* state) const {
  UNILS_CUDA_RETURN_IF_ERROR(
      cudaMemcpyAsync(state, null_state.get(), layout.bytes, cudaMemcpyDeviceToDevice, stream.get()),
      "to reset a session");
  return status_of(cudaStreamSynchronize(stream.get()), "to reset a session");
}

Status CudaModel::device_put(const float* values, int64_t count, unils_device_array* array) const {
  constexpr int32_t kDlpackCuda = 2;
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  DeviceMemory made;
  UNILS_CUDA_RETURN_IF_ERROR(cudaMalloc(made.out(), bytes), "for these frames");
  UNILS_RETURN_IF_ERROR(copy_to_device(made.get(), values, bytes, stream.get(), "to take frames"));
  array->data = std::exchange(*made.out(), nullptr);
  array->device_type = kDlpackCuda, array->device_id = kDevice;
  return Status();
}

}  // namespace unils::cuda
