// Keys and values into their rings, keys turned by RoPE on the way (engine/rope.cpp, engine/kv_ring.h).
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device.h"

namespace unils::cuda {
namespace {

constexpr int kThreads = 128;

// A block a row; a thread a pair of a head.
__global__ void __launch_bounds__(kThreads) append_kernel(KvAppendCall call) {
  const int r = call.rows->first + static_cast<int>(blockIdx.x);
  if (static_cast<int>(blockIdx.x) >= call.rows->count) return;
  const Place place = call.places[r];
  const KvRingAt ring = call.tracks[r] == 0 ? call.rings[0] : call.rings[1];
  const int pairs = ring.head_width / 2, all_pairs = ring.heads * pairs, width = ring.heads * ring.head_width;
  const int64_t slot = RingIndex(ring.capacity).slot(place.position);
  const float* row = call.keys_values + int64_t{r} * 2 * call.depth * width;
  for (int i = thread_index(); i < all_pairs; i += thread_count()) {
    const int head = i / pairs, pair = i % pairs;
    const double angle = static_cast<double>(place.position) * call.frequencies[pair];
    const auto c = static_cast<float>(cos(angle)), s = static_cast<float>(sin(angle));
    for (int layer = 0; layer < call.depth; ++layer) {
      const float* key = row + int64_t{2} * layer * width + 2 * i;
      const float* value = key + width;
      float* keys = ring.keys(place.state, layer, head) + 2 * pair * ring.capacity + slot;
      keys[0] = key[0] * c - key[1] * s;
      keys[ring.capacity] = key[0] * s + key[1] * c;
      float* values = ring.values(place.state, layer, head) + slot * ring.value_stride + 2 * pair;
      values[0] = value[0];
      values[1] = value[1];
    }
  }
}

__global__ void __launch_bounds__(kThreads) write_style_kernel(StyleWriteCall call) {
  const int slot = static_cast<int>(blockIdx.x), width = call.ring.heads * call.ring.head_width;
  const float* key = call.qkv + (int64_t{slot} * 3 + 1) * width;
  const float* value = key + width;
  for (int i = thread_index(); i < width; i += thread_count()) {
    const int head = i / call.ring.head_width, d = i % call.ring.head_width;
    call.ring.keys(call.state, call.layer, head)[d * call.ring.capacity + slot] = key[i];
    call.ring.values(call.state, call.layer, head)[int64_t{slot} * call.ring.value_stride + d] = value[i];
  }
}

}  // namespace

void append_keys_values(const KvAppendCall& call, cudaStream_t stream) {
  launch(append_kernel, dim3(static_cast<unsigned>(call.max_rows)), kThreads, 0, stream, call);
}

void write_style(const StyleWriteCall& call, cudaStream_t stream) {
  launch(write_style_kernel, dim3(static_cast<unsigned>(call.tokens)), kThreads, 0, stream, call);
}

}  // namespace unils::cuda
