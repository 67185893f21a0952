// LayerNorm and a matrix product, for one row up to many thousands.
//
// float32, few rows: a warp a chunk of the inputs, a lane an output, so that a lone session's product is spread over
// as many loads in flight as there are. float32, more rows: a tile of rows by 64 outputs a block, chunk by chunk through
// shared memory, rows x 4 outputs a thread in registers. 16 bits: mma.sync, weights as the left operand, read once a
// block, straight into registers, from the order in which pack_linear left them.
//
// All of them add up the products of a chunk of kChunk inputs first, and then the chunks, in their order: the same sums
// whichever kernel a batch gets.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device.h"

namespace unils::cuda {
namespace {

constexpr int kChunk = kLinearInputs;

// What a block works on: rows [first, first + count).
struct BlockRows {
  int first, count;
};
__device__ inline BlockRows block_rows(const RowRange* rows, int per_block) {
  const int before = static_cast<int>(blockIdx.x) * per_block, left = rows->count - before;
  return {rows->first + before, left < per_block ? left : per_block};
}

// Of every row of a block, a warp a row; nothing to do without a norm. All threads.
__device__ inline void find_moments(const LinearCall& call, const BlockRows& rows, Moments* moments) {
  if (call.norm.weight == nullptr) return;
  for (int r = warp_index(); r < rows.count; r += thread_count() / kWarp) {
    const Moments found = warp_moments(call.x + int64_t{rows.first + r} * call.x_stride, call.linear.in);
    if (lane_index() == 0) moments[r] = found;
  }
  __syncthreads();
}

// Input k of row r of a block, normalised; zero beyond the rows and the inputs.
__device__ inline float input_at(const LinearCall& call, const BlockRows& rows, const Moments* moments, int r, int k) {
  if (r >= rows.count || k >= call.linear.in) return 0.0f;
  const float x = call.x[int64_t{rows.first + r} * call.x_stride + k];
  if (call.norm.weight == nullptr) return x;
  return fmaf((x - moments[r].mean) * moments[r].scale, call.norm.weight[k], call.norm.bias[k]);
}

__device__ inline void finish(const LinearCall& call, int row, int o, float sum) {
  if (o >= call.linear.out) return;
  float value = sum + call.linear.bias[o];
  if (call.gelu) value = gelu(value);
  if (call.scale != nullptr) value = fmaf(value, call.scale[o], call.shift[o]);
  float& y = call.y[int64_t{row} * call.y_stride + o];
  y = call.add ? y + value : value;
}

__device__ inline LinearShape shape_of(const LinearCall& call) { return {call.linear.in, call.linear.out}; }

// ---- float32, few rows

constexpr int kFewRows = 4, kFewThreads = 256, kFewWarps = kFewThreads / kWarp, kFewInputs = kFewWarps * kChunk;

__global__ void __launch_bounds__(kFewThreads) linear_few_kernel(LinearCall call) {
  __shared__ float x[kFewRows][kFewInputs];
  __shared__ float sums[kFewWarps][kFewRows][kWarp];
  __shared__ Moments moments[kFewRows];
  const BlockRows rows = block_rows(call.rows, kFewRows);
  if (rows.count <= 0) return;
  find_moments(call, rows, moments);

  const int64_t padded_in = shape_of(call).padded_in(), padded_out = shape_of(call).padded_out();
  const int outputs = static_cast<int>(blockIdx.y) * kWarp, t = thread_index();
  const float* weights = static_cast<const float*>(call.linear.weight) + outputs + lane_index();
  float total = 0.0f;  // of row t / kWarp
  for (int begin = 0; begin < padded_in; begin += kFewInputs) {
    for (int i = t; i < kFewRows * kFewInputs; i += kFewThreads) {
      x[i / kFewInputs][i % kFewInputs] = input_at(call, rows, moments, i / kFewInputs, begin + i % kFewInputs);
    }
    __syncthreads();
    const int chunk = warp_index() * kChunk;
    if (begin + chunk < padded_in) {
      float sum[kFewRows] = {};
#pragma unroll
      for (int k = 0; k < kChunk; ++k) {
        const float weight = weights[(begin + chunk + k) * padded_out];
#pragma unroll
        for (int r = 0; r < kFewRows; ++r) sum[r] = fmaf(weight, x[r][chunk + k], sum[r]);
      }
      for (int r = 0; r < kFewRows; ++r) sums[warp_index()][r][lane_index()] = sum[r];
    }
    __syncthreads();
    if (t < kFewRows * kWarp) {
      for (int warp = 0; warp < kFewWarps && begin + warp * kChunk < padded_in; ++warp) {
        total += sums[warp][t / kWarp][t % kWarp];
      }
    }
  }
  if (t / kWarp < rows.count) finish(call, rows.first + t / kWarp, outputs + t % kWarp, total);
}

// ---- float32, more rows

constexpr int kTileThreads = 256, kTileOutputs = kLinearOutputs, kThreadOutputs = 4;

// Rows of a thread where there are many, and where there are too few of those tiles to fill a device.
constexpr int kMany = 4, kSome = 2;

template <int kThreadRows>
__global__ void __launch_bounds__(kTileThreads, 2) linear_tile_kernel(LinearCall call) {
  constexpr int kRows = kTileThreads / (kTileOutputs / kThreadOutputs) * kThreadRows;
  // Padded so that neither the writes, 8 inputs of 4 rows a warp, nor the reads share a bank.
  alignas(16) __shared__ float x[kChunk][kRows + 4];
  alignas(16) __shared__ float w[kChunk][kTileOutputs];
  __shared__ Moments moments[kRows];
  const BlockRows rows = block_rows(call.rows, kRows);
  if (rows.count <= 0) return;
  find_moments(call, rows, moments);

  const int64_t padded_in = shape_of(call).padded_in(), padded_out = shape_of(call).padded_out();
  const int outputs = static_cast<int>(blockIdx.y) * kTileOutputs;
  const int own_output = thread_index() % (kTileOutputs / kThreadOutputs) * kThreadOutputs;
  const int own_row = thread_index() / (kTileOutputs / kThreadOutputs) * kThreadRows;
  const float* weights = static_cast<const float*>(call.linear.weight) + outputs;
  // A chunk is on its way to registers while the one before it is added up. A thread brings one input of every eighth
  // row, and four weights of every sixteenth input.
  constexpr int kInputLoads = kRows / 8, kWeightLoads = kChunk / 16;
  const int load_k = warp_index() % 4 * 8 + lane_index() % 8, load_row = warp_index() / 4 * 4 + lane_index() / 8;
  const int load_w = thread_index() / 16, load_output = thread_index() % 16 * 4;
  float next_x[kInputLoads];
  float4 next_w[kWeightLoads];
  const auto load = [&](int begin) {
#pragma unroll
    for (int j = 0; j < kInputLoads; ++j) next_x[j] = input_at(call, rows, moments, load_row + 8 * j, begin + load_k);
#pragma unroll
    for (int j = 0; j < kWeightLoads; ++j) {
      next_w[j] = *reinterpret_cast<const float4*>(&weights[(begin + load_w + 16 * j) * padded_out + load_output]);
    }
  };
  const auto store = [&] {
#pragma unroll
    for (int j = 0; j < kInputLoads; ++j) x[load_k][load_row + 8 * j] = next_x[j];
#pragma unroll
    for (int j = 0; j < kWeightLoads; ++j) *reinterpret_cast<float4*>(&w[load_w + 16 * j][load_output]) = next_w[j];
  };
  float total[kThreadRows][kThreadOutputs] = {};
  load(0);
  for (int begin = 0; begin < padded_in; begin += kChunk) {
    store();
    __syncthreads();
    if (begin + kChunk < padded_in) load(begin + kChunk);
    float sum[kThreadRows][kThreadOutputs] = {};
#pragma unroll 4
    for (int k = 0; k < kChunk; ++k) {
#pragma unroll
      for (int r = 0; r < kThreadRows; ++r) {
#pragma unroll
        for (int o = 0; o < kThreadOutputs; ++o) sum[r][o] = fmaf(w[k][own_output + o], x[k][own_row + r], sum[r][o]);
      }
    }
#pragma unroll
    for (int r = 0; r < kThreadRows; ++r) {
#pragma unroll
      for (int o = 0; o < kThreadOutputs; ++o) total[r][o] += sum[r][o];
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r) {
    if (own_row + r >= rows.count) continue;
#pragma unroll
    for (int o = 0; o < kThreadOutputs; ++o) finish(call, rows.first + own_row + r, outputs + own_output + o, total[r][o]);
  }
}

// ---- 16 bits

constexpr int kMmaThreads = 128, kMmaRows = 8, kMmaSide = 16;

// kTiles x 8 rows by 64 outputs a block, 16 outputs a warp. kStage: inputs in shared memory at a time.
template <int kTiles, int kStage, bool kBf16>
__global__ void __launch_bounds__(kMmaThreads, 4) linear_mma_kernel(LinearCall call) {
  constexpr int kRows = kTiles * kMmaRows, kPairs = kStage / 2;
  __shared__ uint32_t x[kRows][kPairs + 4];  // padded so that the 8 rows of a fragment lie in different banks
  __shared__ Moments moments[kRows];
  const BlockRows rows = block_rows(call.rows, kRows);
  if (rows.count <= 0) return;
  find_moments(call, rows, moments);

  const int padded_in = static_cast<int>(shape_of(call).padded_in());
  const int outputs = static_cast<int>(blockIdx.y) * kLinearOutputs + warp_index() * kMmaSide;
  const int group = lane_index() / 4, in_group = lane_index() % 4;
  const uint4* weights = static_cast<const uint4*>(call.linear.weight) +
                         int64_t{outputs / kMmaSide} * (padded_in / kMmaSide) * kWarp + lane_index();
  // As in the tiles above: a thread brings one pair of inputs of every kStep-th row.
  constexpr int kStep = kMmaThreads / kPairs, kLoads = kRows / kStep;
  const int load_pair = thread_index() % kPairs, load_row = thread_index() / kPairs;
  float next[kLoads][2];
  const auto load = [&](int begin) {
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      for (int i = 0; i < 2; ++i) {
        next[j][i] = input_at(call, rows, moments, load_row + kStep * j, begin + 2 * load_pair + i);
      }
    }
  };
  float total[kTiles][4] = {};
  load(0);
  for (int begin = 0; begin < padded_in; begin += kStage) {
#pragma unroll
    for (int j = 0; j < kLoads; ++j) x[load_row + kStep * j][load_pair] = pack_pair(next[j][0], next[j][1], kBf16);
    __syncthreads();
    if (begin + kStage < padded_in) load(begin + kStage);
#pragma unroll
    for (int chunk = 0; chunk < kStage / kChunk; ++chunk) {
      if (begin + chunk * kChunk >= padded_in) break;
      float sum[kTiles][4] = {};
#pragma unroll
      for (int side = 0; side < kChunk / kMmaSide; ++side) {
        const int at = chunk * (kChunk / kMmaSide) + side;
        const uint4 fragment = weights[(begin / kMmaSide + at) * kWarp];
        const uint32_t a[4] = {fragment.x, fragment.y, fragment.z, fragment.w};
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const uint32_t* row = &x[tile * kMmaRows + group][at * (kMmaSide / 2) + in_group];
          const uint32_t b[2] = {row[0], row[4]};
          mma<kBf16>(sum[tile], a, b);
        }
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        for (int i = 0; i < 4; ++i) total[tile][i] += sum[tile][i];
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = tile * kMmaRows + in_group * 2 + i % 2;
      if (r < rows.count) finish(call, rows.first + r, outputs + group + i / 2 * 8, total[tile][i]);
    }
  }
}

void launch_linear(void (*kernel)(LinearCall), const LinearCall& call, int rows, int outputs, int threads,
                   cudaStream_t stream) {
  const LinearShape shape = {call.linear.in, call.linear.out};
  launch(kernel, dim3(blocks_of(call.max_rows, rows), blocks_of(shape.padded_out(), outputs)), threads, 0, stream,
         call);
}

}  // namespace

void pack_linear(const LinearShape& shape, const float* weight, Element element, void* packed) {
  const int64_t in = shape.padded_in(), out = shape.padded_out();
  const auto at = [&](int64_t o, int64_t k) { return o < shape.out && k < shape.in ? weight[o * shape.in + k] : 0.0f; };
  if (element == Element::kFloat32) {
    auto* to = static_cast<float*>(packed);
    for (int64_t k = 0; k < in; ++k) {
      for (int64_t o = 0; o < out; ++o) *to++ = at(o, k);
    }
    return;
  }
  const auto rounded = [element](float value) { return element == Element::kBf16 ? bf16_of(value) : fp16_of(value); };
  auto* to = static_cast<uint16_t*>(packed);
  for (int64_t o = 0; o < out; o += kMmaSide) {
    for (int64_t k = 0; k < in; k += kMmaSide) {
      for (int lane = 0; lane < kWarp; ++lane) {
        for (int i = 0; i < 8; ++i) {  // registers of the left operand: (row, row + 8) x (inputs, inputs + 8), in pairs
          const int64_t row = o + lane / 4 + (i / 2 % 2) * 8, input = k + lane % 4 * 2 + i % 2 + i / 4 * 8;
          *to++ = rounded(at(row, input));
        }
      }
    }
  }
}

void linear(const LinearCall& call, LinearKernel kernel, cudaStream_t stream) {
  if (call.linear.element == Element::kFloat32) {
    switch (kernel) {
      case LinearKernel::kFewRows:
        return launch_linear(linear_few_kernel, call, kFewRows, kWarp, kFewThreads, stream);
      case LinearKernel::kSomeRows:
        return launch_linear(linear_tile_kernel<kSome>, call, 16 * kSome, kTileOutputs, kTileThreads, stream);
      case LinearKernel::kManyRows:
        return launch_linear(linear_tile_kernel<kMany>, call, 16 * kMany, kTileOutputs, kTileThreads, stream);
    }
  }
  const bool bf16 = call.linear.element == Element::kBf16;
  if (kernel == LinearKernel::kFewRows) {
    launch_linear(bf16 ? linear_mma_kernel<1, 256, true> : linear_mma_kernel<1, 256, false>, call, kMmaRows,
                  kLinearOutputs, kMmaThreads, stream);
  } else {
    launch_linear(bf16 ? linear_mma_kernel<8, 32, true> : linear_mma_kernel<8, 32, false>, call, 8 * kMmaRows,
                  kLinearOutputs, kMmaThreads, stream);
  }
}

// By size alone; which it is changes no value.
void linear(const LinearCall& call, cudaStream_t stream) {
  // The kernel for few rows reads the weights once for every kFewRows of them: from the L2 cache, as long as that is little.
  constexpr int64_t kLittle = int64_t{32} << 20;
  const LinearShape shape = {call.linear.in, call.linear.out};
  const int64_t read = shape.weight_bytes(Element::kFloat32) * ((call.max_rows + kFewRows - 1) / kFewRows);
  const bool few = call.max_rows <= 16 || (call.linear.element == Element::kFloat32 && read <= kLittle);
  linear(call, few ? LinearKernel::kFewRows : call.max_rows <= 4096 ? LinearKernel::kSomeRows : LinearKernel::kManyRows,
         stream);
}

}  // namespace unils::cuda
