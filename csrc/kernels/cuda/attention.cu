// Decode attention: one query a row and head, over the style prefix and a window of a ring (kernels/ref, attention).
//
// Keys lie (head_width, slot), so a thread scores a slot and neighbours read neighbours; values lie (slot, head_width), so
// a lane owns a dimension of the output and warps take every fourth slot. Slots are counted from the oldest, wherever
// the ring begins, so that a wrap cannot change the order of a sum. A step waits for memory above all: values are on
// their way to the L2 cache while keys are scored.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device.h"

namespace unils::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

// The query as it is and turned, the scores, and what each warp made of values and of extremes.
__host__ __device__ inline int64_t shared_floats(int head_width, int slots) {
  return int64_t{2 + kWarps} * head_width + slots + kWarps;
}

// The same value in every thread of the block; `scratch`: (kWarps).
template <typename Combine>
__device__ float block_all(float of_warp, float* scratch, const Combine& combine) {
  if (lane_index() == 0) scratch[warp_index()] = of_warp;
  __syncthreads();
  float all = scratch[0];
  for (int warp = 1; warp < kWarps; ++warp) all = combine(all, scratch[warp]);
  __syncthreads();
  return all;
}

__global__ void __launch_bounds__(kThreads) attention_kernel(AttentionCall call) {
  UNILS_DYNAMIC_SHARED(float, shared);
  const int r = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
  if (r >= call.rows->count) return;
  const int step = call.step_of[r];
  const Place place = call.places[step];
  const KvRingAt ring = call.rings[r < call.steps->count ? 0 : 1];
  const int width = ring.head_width, pairs = width / 2;
  const int capacity = static_cast<int>(ring.capacity);
  const int look_ahead = call.look_ahead == nullptr ? 0 : call.look_ahead[step];
  const int64_t oldest = place.position - call.window + 1;
  const int64_t first = oldest > 0 ? oldest : 0;
  const int prefix = call.style_tokens;
  const int total = prefix + static_cast<int>(place.position + look_ahead + 1 - first);

  float* plain = shared;
  float* turned = plain + width;
  float* partial = turned + width;  // (kWarps, width)
  float* scores = partial + kWarps * width;
  float* scratch = scores + total;

  const float* query = call.query + int64_t{r} * call.query_stride + head * width;
  for (int i = thread_index(); i < pairs; i += thread_count()) {
    const float c = call.cosines[int64_t{step} * pairs + i], s = call.sines[int64_t{step} * pairs + i];
    const float a = query[2 * i], b = query[2 * i + 1];
    plain[2 * i] = a, plain[2 * i + 1] = b;
    turned[2 * i] = a * c - b * s, turned[2 * i + 1] = a * s + b * c;
    if (call.key == nullptr) continue;
    const auto slot = static_cast<int>(RingIndex(capacity).slot(place.position));
    const float* key = call.key + int64_t{r} * call.query_stride + head * width + 2 * i;
    const float* value = call.value + int64_t{r} * call.query_stride + head * width + 2 * i;
    float* keys = ring.keys(place.state, call.layer, head) + 2 * i * capacity + slot;
    float* values = ring.values(place.state, call.layer, head) + slot * ring.value_stride + 2 * i;
    keys[0] = key[0] * c - key[1] * s, keys[capacity] = key[0] * s + key[1] * c;
    values[0] = value[0], values[1] = value[1];
  }
  __syncthreads();

  // Of the i-th slot, counted from the oldest, the prefix first.
  const auto start = static_cast<int>(RingIndex(capacity).slot(first));
  const auto slot_of = [&](int i) {
    const int slot = start + (i - prefix);
    return slot < capacity ? slot : slot - capacity;
  };
  const float* style_values = prefix == 0 ? nullptr : call.style.values(place.state, call.layer, head);
  const float* ring_values = ring.values(place.state, call.layer, head);
  const auto values_of = [&](int i) {
    return i < prefix ? style_values + i * call.style.value_stride : ring_values + slot_of(i) * ring.value_stride;
  };
  for (int i = thread_index(); i < total; i += thread_count()) {
    for (int d = 0; d < width; d += kWarp) prefetch(values_of(i) + d);
  }

  float highest = -INFINITY;
  for (int i = thread_index(); i < total; i += thread_count()) {
    const bool styled = i < prefix;
    const float* q = styled ? plain : turned;
    const int stride = styled ? static_cast<int>(call.style.capacity) : capacity;
    const float* key =
        styled ? call.style.keys(place.state, call.layer, head) + i : ring.keys(place.state, call.layer, head) + slot_of(i);
    float dot = 0.0f;
#pragma unroll 8
    for (int d = 0; d < width; ++d) dot = fmaf(q[d], key[d * stride], dot);
    scores[i] = dot * call.scale;
    highest = fmaxf(highest, scores[i]);
  }
  highest = block_all(warp_max(highest), scratch, [](float a, float b) { return fmaxf(a, b); });
  float sum = 0.0f;
  for (int i = thread_index(); i < total; i += thread_count()) {
    scores[i] = expf(scores[i] - highest);
    sum += scores[i];
  }
  sum = block_all(warp_sum(sum), scratch, [](float a, float b) { return a + b; });  // and all scores are there

  for (int d = lane_index(); d < width; d += kWarp) {
    float weighted = 0.0f;
#pragma unroll 8
    for (int i = warp_index(); i < total; i += kWarps) weighted = fmaf(scores[i], values_of(i)[d], weighted);
    partial[warp_index() * width + d] = weighted;
  }
  __syncthreads();
  float* out = call.out + (int64_t{r} * ring.heads + head) * width;
  for (int d = thread_index(); d < width; d += thread_count()) {
    float all = partial[d];
    for (int warp = 1; warp < kWarps; ++warp) all += partial[warp * width + d];
    out[d] = all / sum;
  }
}

}  // namespace

void attention(const AttentionCall& call, cudaStream_t stream) {
  // No more slots than the ring has are ever seen.
  const KvRingAt& ring = call.rings[0];
  const size_t shared_bytes =
      attention_shared_bytes(ring.head_width, call.style_tokens + static_cast<int>(ring.capacity));
  launch(attention_kernel, dim3(static_cast<unsigned>(call.max_rows), static_cast<unsigned>(ring.heads)), kThreads,
         shared_bytes, stream, call);
}

size_t attention_shared_bytes(int head_width, int slots) {
  return static_cast<size_t>(shared_floats(head_width, slots)) * sizeof(float);
}

cudaError_t allow_attention_shared_bytes(size_t bytes) {
  return cudaFuncSetAttribute(attention_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

}  // namespace unils::cuda
