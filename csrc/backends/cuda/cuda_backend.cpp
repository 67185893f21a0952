// The table of the cuda backend, and the entry of its plug-in.
#include <cuda_runtime.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <new>

#include "backends/cuda/cuda_model.h"
#include "backends/cuda/workspace.h"
#include "unils/backend.h"

namespace unils::cuda {
namespace {

constexpr int kOldest = 8;  // compute capability: bf16 and fp16 products as kernels ask for them

const CudaModel& model_of(const unils_backend_model* model) { return *reinterpret_cast<const CudaModel*>(model); }
Workspace& workspace_of(unils_backend_workspace* workspace) { return *reinterpret_cast<Workspace*>(workspace); }

void say(unils_sentence* sentence, const char* text) {
  std::snprintf(sentence->text, sizeof sentence->text, "%s", text);
}

// body() on the device, its status told.
template <typename Body>
unils_status answer(unils_sentence* why, const Body& body) {
  try {
    const DeviceGuard guard(CudaModel::kDevice);
    const Status status = guard.code() == cudaSuccess ? body() : status_of(guard.code(), "to be made the current one");
    if (!status.ok()) say(why, status.sentence().c_str());
    return status.code();
  } catch (const std::bad_alloc&) {
    say(why, "there is not enough memory on the host");
    return UNILS_ERROR_OUT_OF_MEMORY;
  } catch (const std::exception& failure) {
    say(why, failure.what());
    return UNILS_ERROR_INTERNAL;
  }
}

int32_t score(unils_sentence* detail) {
  int count = 0;
  cudaDeviceProp device = {};
  cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess && count > 0) code = cudaGetDeviceProperties(&device, CudaModel::kDevice);
  if (code != cudaSuccess || count == 0) {
    static_cast<void>(cudaGetLastError());
    std::snprintf(detail->text, sizeof detail->text, "no NVIDIA GPU can be used: %s; it takes one, and its driver",
                  code != cudaSuccess ? cudaGetErrorString(code) : "there is none");
    return 0;
  }
  if (device.major < kOldest) {
    std::snprintf(detail->text, sizeof detail->text,
                  "%s is of compute capability %d.%d; it takes %d.0 (Ampere) or newer", device.name, device.major,
                  device.minor, kOldest);
    return 0;
  }
  std::snprintf(detail->text, sizeof detail->text, "%s, sm_%d%d, %zu GB", device.name, device.major, device.minor,
                (device.totalGlobalMem + 500'000'000) / 1'000'000'000);
  return 30;
}

unils_status model_create(const unils_model_spec* spec, unils_backend_model** model, unils_sentence* why) {
  return answer(why, [&] {
    std::unique_ptr<CudaModel> made;
    UNILS_RETURN_IF_ERROR(CudaModel::create(*spec, &made));
    *model = reinterpret_cast<unils_backend_model*>(made.release());
    return Status();
  });
}

void model_free(unils_backend_model* model) {
  const DeviceGuard guard(CudaModel::kDevice);
  delete reinterpret_cast<CudaModel*>(model);
}

int64_t weight_bytes(const unils_backend_model* model) {
  return static_cast<int64_t>(model_of(model).weights.step_bytes);
}

unils_status states_create(const unils_backend_model* model, int32_t count, void** states, unils_sentence* why) {
  return answer(why, [&] { return model_of(model).create_states(count, states); });
}

void states_free(const unils_backend_model*, void* states) {
  const DeviceGuard guard(CudaModel::kDevice);
  static_cast<void>(cudaFree(states));
}

unils_status state_read(const unils_backend_model* model, const void* state, void* block, unils_sentence* why) {
  return answer(why, [&] { return model_of(model).read_state(state, block); });
}

unils_status state_write(const unils_backend_model* model, void* state, const void* block, unils_sentence* why) {
  return answer(why, [&] { return model_of(model).write_state(state, block); });
}

unils_status workspace_create(const unils_backend_model* model, int32_t sessions, unils_backend_workspace** workspace,
                              unils_sentence* why) {
  return answer(why, [&] {
    std::unique_ptr<Workspace> made;
    UNILS_RETURN_IF_ERROR(Workspace::create(model_of(model), sessions, &made));
    *workspace = reinterpret_cast<unils_backend_workspace*>(made.release());
    return Status();
  });
}

void workspace_free(unils_backend_workspace* workspace) {
  const DeviceGuard guard(CudaModel::kDevice);
  delete reinterpret_cast<Workspace*>(workspace);
}

int64_t workspace_bytes(const unils_backend_workspace* workspace) {
  return reinterpret_cast<const Workspace*>(workspace)->bytes();
}

unils_status reset(const unils_backend_model* model, void* state, unils_sentence* why) {
  return answer(why, [&] { return model_of(model).reset(state); });
}

unils_status set_style(const unils_backend_model*, void* state, unils_backend_workspace* workspace, const float* motion,
                       int64_t frames, unils_sentence* why) {
  return answer(why, [&] { return workspace_of(workspace).set_style(state, motion, frames); });
}

unils_status run(const unils_backend_model*, unils_backend_workspace* workspace, const unils_row_request* rows,
                 int32_t row_count, const unils_step_request* steps, int32_t step_count, unils_sentence* why) {
  return answer(why, [&] { return workspace_of(workspace).run(rows, row_count, steps, step_count); });
}

unils_status device_put(const unils_backend_model* model, const float* values, int64_t count, unils_device_array* array,
                        unils_sentence* why) {
  return answer(why, [&] { return model_of(model).device_put(values, count, array); });
}

void device_free(const unils_backend_model*, void* data) {
  const DeviceGuard guard(CudaModel::kDevice);
  static_cast<void>(cudaFree(data));
}

constexpr unils_backend kCudaBackend = {UNILS_BACKEND_VERSION, "cuda",
                                        1,  // hears hops
                                        score, model_create, model_free, weight_bytes, states_create, states_free,
                                        state_read, state_write, workspace_create, workspace_free, workspace_bytes,
                                        reset, set_style, run, device_put, device_free};

}  // namespace
}  // namespace unils::cuda

extern "C" __attribute__((visibility("default"))) const unils_backend* unils_backend_plugin(uint32_t version) {
  return version == UNILS_BACKEND_VERSION ? &unils::cuda::kCudaBackend : nullptr;
}
