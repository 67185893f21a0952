// The kernels of a step, as a table of functions: one table per instruction set, and `ref`, the scalar truth that every
// other one agrees with. Kernels take raw pointers of any alignment and trust their sizes; none allocates.
#pragma once
#include <cstdint>

#include "core/cpu.h"

namespace unils {

// A linear layer whose weights were laid out by pack_linear: panels of outputs, read front to back. In a panel the
// outputs of one input lie side by side: row 0 is the bias, row 1 + k the weights of input k.
struct PackedLinear {
  const float* panels = nullptr;
  int out = 0;
  int in = 0;
};

// A contiguous run of keys and values of one head, with the query that meets them.
struct AttentionSpan {
  const float* query;   // (head_width)
  const float* keys;    // (head_width, capacity): key i is column i
  const float* values;  // (capacity, value_stride): value i is row i
  int64_t capacity;     // a multiple of kSlotBlock
  int64_t first;        // first slot of the run
  int64_t count;        // slots
};

// Keys are scored in whole blocks of slots, so that no vector load leaves the ring.
constexpr int kSlotBlock = 16;
constexpr int round_to_block(int n) { return (n + kSlotBlock - 1) / kSlotBlock * kSlotBlock; }

struct Kernels {
  CpuLevel level;
  int panel;  // outputs in a full panel
  int lanes;  // the last panel is cut to a multiple of this

  // y[m, o] (+)= bias[o] + sum over k of weight[o, k] x[m, k]: for m < rows, in one pass over the weights. A row's sums
  // are the same, bit for bit, whichever rows are computed with it. Strides are in floats. add: y is added to, otherwise
  // overwritten. x and y must not overlap.
  void (*linear)(const PackedLinear& linear, const float* x, int64_t x_stride, float* y, int64_t y_stride, int rows,
                 bool add);
  // y = (x - mean) / sqrt(variance + 1e-5) * weight + bias. x and y may be the same.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float* y, int n);
  // tanh form, in place: x = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
  void (*gelu)(float* x, int n);
  // y[c] = bias[c] + sum over i of weight[i * channels + c] rows[i][c], in the order of i; a null row counts as zero.
  void (*depthwise)(const float* weight, const float* bias, const float* const* rows, int taps, int channels, float* y);
  // One head: softmax(scale query . key) over all spans in their order, then the weighted sum of the values.
  // values have a stride of round_to_block(head_width). scores: scratch for the slots of all spans plus kSlotBlock.
  // out: (head_width). At least one slot.
  void (*attention)(const AttentionSpan* spans, int span_count, int head_width, float scale, float* scores, float* out);
};

// The table of a level; null when it is not compiled in (see cpu_supports for whether it can run).
const Kernels* kernels_for(CpuLevel level);

// Floats that pack_linear writes.
int64_t packed_floats(const Kernels& kernels, int out, int in);
// weight: (out, in) row-major; bias: (out) or null for zeros; panels: packed_floats().
PackedLinear pack_linear(const Kernels& kernels, const float* weight, const float* bias, int out, int in,
                         float* panels);

}  // namespace unils
