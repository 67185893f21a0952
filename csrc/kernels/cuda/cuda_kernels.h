// The kernels of a step on a CUDA device, one family a file; each agrees with csrc/kernels/ref or with the stage of the
// cpu backend that it stands for.
//
// Every function enqueues one kernel on a stream and returns; an error is the thread's last CUDA error. Pointers are to
// device memory. Kernels trust their sizes; none allocates, none waits. Grids are made for the largest batch of a
// bucket, and what a call really holds is read on the device (RowRange, Place), so that one captured graph serves every
// call: rows beyond it cost an empty block. The values of a row do not depend on which rows are computed with it, nor
// on how many: every sum has an order of its own.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "core/host_device.h"
#include "core/ring.h"

namespace unils::cuda {

// Rows [first, first + count) of a batch.
struct RowRange {
  int32_t first, count;
};

// Whose frame or row, and which one.
struct Place {
  float* state;  // a block as engine/state_layout.h lays it out
  int64_t position;
};

// How the bits of a step are drawn.
struct Sampling {
  uint64_t seed;
  float temperature, top_p, cfg_scale;
  int32_t row_without_audio;  // of a batch; -1: no guidance
};

// As engine/row_ring.h, in floats.
struct RowRingAt {
  int64_t offset;
  int64_t capacity;
  int32_t width;

  UNILS_HOST_DEVICE float* row(float* state, int block, int64_t position) const {
    return state + offset + (block * capacity + RingIndex(capacity).slot(position)) * width;
  }
};

// As engine/kv_ring.h, in floats.
struct KvRingAt {
  int64_t offset;
  int64_t capacity;
  int32_t heads, head_width, value_stride;

  UNILS_HOST_DEVICE float* keys(float* state, int layer, int head) const {
    return state + offset + (int64_t{layer} * heads + head) * (head_width + value_stride) * capacity;
  }
  UNILS_HOST_DEVICE float* values(float* state, int layer, int head) const {
    return keys(state, layer, head) + head_width * capacity;
  }
};

// ---- log_mel.cu

// Tables of features/log_mel.h and features/real_fft.h.
struct LogMelTables {
  int32_t window_samples, step_samples, hop_samples, fft_size, mels;
  double floor;
  const double* hann;                // (window_samples)
  const double *cosines, *sines;     // (fft_size / 2)
  const int32_t* reversed;           // (fft_size / 2)
  const int32_t *first, *count, *at; // (mels): of each filter's bins, and where its weights lie
  const double* weights;
};

struct LogMelCall {
  LogMelTables tables;
  const RowRange* rows;
  int32_t max_rows;
  const Place* places;
  const int32_t* tracks;      // (max_rows): 0 or 1
  const int32_t* is_log_mel;  // (max_rows): 1 where `sounds` holds a row that was made elsewhere
  const float* sounds;        // (max_rows, sound_stride): hops, or rows
  int32_t sound_stride;
  int64_t history[2];            // offset in a state, by track: (kept_hops, window - step samples)
  int32_t kept_hops;
  const float *mel_mean, *mel_std;  // (mels)
  float* normal;                    // (max_rows, row values), out
};
// Appends each hop to the history of its track, and makes the normalised log-mel row of it. Shared memory of
// 12 fft_size + 8 bytes.
void log_mel(const LogMelCall& call, cudaStream_t stream);

// ---- linear.cu

enum class Element : int32_t { kFloat32, kFp16, kBf16 };

// y = weight x + bias. Laid out by LinearShape: float32 (in, out), so that threads of neighbouring outputs read
// neighbouring weights; 16 bits in the fragments of mma.sync, a tile of 16 x 16 after the other, (out, in) of them. Both
// dimensions are padded with zeros.
struct Linear {
  const void* weight;
  const float* bias;  // (out, padded)
  int32_t in, out;
  Element element;
};
constexpr int kLinearInputs = 32, kLinearOutputs = 64;  // the padding's multiples
struct LinearShape {
  int32_t in, out;
  constexpr int64_t padded_in() const { return (int64_t{in} + kLinearInputs - 1) / kLinearInputs * kLinearInputs; }
  constexpr int64_t padded_out() const { return (int64_t{out} + kLinearOutputs - 1) / kLinearOutputs * kLinearOutputs; }
  int64_t weight_bytes(Element element) const {
    return padded_in() * padded_out() * (element == Element::kFloat32 ? 4 : 2);
  }
};
// weight: (out, in) row-major; packed: weight_bytes(). On the host.
void pack_linear(const LinearShape& shape, const float* weight, Element element, void* packed);

struct LayerNormAt {
  const float *weight, *bias;  // NULL: none
};

struct LinearCall {
  Linear linear;
  LayerNormAt norm;  // of x, first
  const RowRange* rows;
  int32_t max_rows;
  const float* x;
  int32_t x_stride;
  float* y;
  int32_t y_stride;
  bool gelu, add;             // y = gelu(...); y += ...
  const float *scale, *shift; // (out), or NULL: y = ... * scale + shift
};
void linear(const LinearCall& call, cudaStream_t stream);
// The same by a kernel of one's choice, for tests: `linear` chooses by max_rows.
enum class LinearKernel { kFewRows, kSomeRows, kManyRows };
void linear(const LinearCall& call, LinearKernel kernel, cudaStream_t stream);

// ---- causal_stack.cu

struct CausalConvCall {
  const RowRange* rows;
  int32_t max_rows;
  const Place* places;    // NULL: rows are the frames of a clip, whose first is row 0, and x holds them all
  const int32_t* tracks;  // (max_rows): which ring; NULL: the first
  RowRingAt rings[2];
  int32_t block, kernel, width;
  const float *weight, *bias;  // (kernel, width), (width)
  const float* x;              // (max_rows, width)
  float* y;                    // (max_rows, width), out
};
// Appends x to the ring of its stream, and convolves what lies there, depthwise and causally.
void causal_conv(const CausalConvCall& call, cudaStream_t stream);

// ---- kv_ring.cu

struct KvAppendCall {
  const RowRange* rows;
  int32_t max_rows;
  const Place* places;
  const int32_t* tracks;
  KvRingAt rings[2];  // by track
  int32_t depth;
  const double* frequencies;  // radians a position, (head_width / 2)
  const float* keys_values;   // (max_rows, depth, [key; value], heads * head_width)
};
// Turns each key by its row's angle (RoPE) and appends it, and its value, to the ring of every layer.
void append_keys_values(const KvAppendCall& call, cudaStream_t stream);

struct StyleWriteCall {
  float* state;
  KvRingAt ring;
  int32_t layer, tokens;
  const float* qkv;  // (tokens, 3 heads * head_width)
};
// Writes keys, as they are, and values of the style prefix.
void write_style(const StyleWriteCall& call, cudaStream_t stream);

// ---- attention.cu

struct AttentionCall {
  const RowRange *rows, *steps;  // rows beyond the steps' are those without audio
  int32_t max_rows;
  const Place* places;           // (steps)
  const int32_t* step_of;        // (max_rows): the step that a row belongs to
  const int32_t* look_ahead;     // (steps), or NULL: 0
  KvRingAt rings[2];             // of rows with audio, and without
  KvRingAt style;                // only of `self`
  int32_t style_tokens;          // 0 where there is no prefix
  int32_t layer, window;
  const float *cosines, *sines;  // (steps, head_width / 2)
  const float* query;            // (max_rows, query_stride)
  const float *key, *value;      // of this frame, to be appended first; strides as the query's. NULL: none
  int32_t query_stride;
  float scale;
  float* out;  // (max_rows, heads * head_width)
};
// One head a block: softmax over the style prefix and the window, oldest first, then the weighted sum of values.
void attention(const AttentionCall& call, cudaStream_t stream);
// Bytes of shared memory that a block takes. More than 48 KiB must be allowed first.
size_t attention_shared_bytes(int head_width, int slots);
cudaError_t allow_attention_shared_bytes(size_t bytes);

// ---- token.cu

struct TokenCall {
  const RowRange* steps;
  int32_t max_steps;
  const Place* places;
  const Sampling* sampling;      // (steps)
  const int32_t* look_ahead[2];  // (steps), by track
  int64_t bits_offset;           // in a state
  int32_t bits, width, head_width;       // bits: of all levels
  const float *weight, *bias, *start;    // (bits, width), (width), (width)
  const float* look_ahead_embedding[2];  // (max + 1, width)
  const double* frequencies;
  float* x;                // (rows, width), out
  float *cosines, *sines;  // (steps, head_width / 2), out
};
// The token of each frame, from the bits of the one before, and the RoPE angles of the frame.
void token(const TokenCall& call, cudaStream_t stream);

// ---- depth_head.cu

struct DepthHeadCall {
  const RowRange* steps;
  int32_t max_steps;
  const Place* places;
  const Sampling* sampling;  // (steps)
  int64_t bits_offset;       // in a state
  int32_t levels, bits, head_width;
  const float* hidden;  // (rows, levels * head_width): of every level, without the term of the bits before it
  // By level: (level * bits, head_width), and (bits, head_width) with its bias (bits), one after the other.
  const float *bits_weight, *output_weight, *output_bias;
  const float* gains;  // (levels)
  float* logits;       // (steps, levels * bits), out, guided
  float* latent;       // (steps, bits), out
};
// Samples the levels of each frame in their order, writes its bits into the state, and makes their latent.
void depth_head(const DepthHeadCall& call, cudaStream_t stream);
size_t depth_head_shared_bytes(int levels, int bits, int head_width);
cudaError_t allow_depth_head_shared_bytes(size_t bytes);

// ---- style.cu

// x (rows, n) = (x - mean) / std, in place.
void normalise_rows(const RowRange* rows, int max_rows, const float* mean, const float* std, int n, float* x,
                    cudaStream_t stream);
// Quantises z (frames, d) in place: rows normalised, bits of the residual level by level, their latent.
void quantise_rows(const RowRange* rows, int max_rows, const float* gains, int levels, int d, float* z,
                   cudaStream_t stream);
// Mean of rows [floor(j n / tokens), ceil((j + 1) n / tokens)) for each token j; n: rows->count. pooled: (tokens, d).
void pool_rows(const RowRange* rows, int tokens, int d, const float* latents, float* pooled, cudaStream_t stream);

}  // namespace unils::cuda
