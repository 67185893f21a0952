// The scalar truth of every kernel: plain loops in the order of the formulas, the standard library's functions.
#include <algorithm>
#include <cmath>

#include "kernels/tables.h"

namespace unils {
namespace {

// A panel of one output: a row of weights behind its bias.
void linear(const PackedLinear& linear, const float* x, int64_t x_stride, float* y, int64_t y_stride, int rows,
            bool add) {
  const float* weight = linear.panels;
  for (int o = 0; o < linear.out; ++o, weight += linear.in + 1) {
    for (int m = 0; m < rows; ++m) {
      float sum = weight[0];
      for (int k = 0; k < linear.in; ++k) sum += weight[1 + k] * x[m * x_stride + k];
      float& out = y[m * y_stride + o];
      out = add ? out + sum : sum;
    }
  }
}

void layer_norm(const float* x, const float* weight, const float* bias, float* y, int n) {
  float sum = 0.0f, squares = 0.0f;
  for (int i = 0; i < n; ++i) sum += x[i];
  const float mean = sum / static_cast<float>(n);
  for (int i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(n) + 1e-5f);
  for (int i = 0; i < n; ++i) y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

void gelu(float* x, int n) {
  constexpr float kSqrt2OverPi = 0.7978845608028654f;
  for (int i = 0; i < n; ++i) {
    x[i] = 0.5f * x[i] * (1.0f + std::tanh(kSqrt2OverPi * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
  }
}

void depthwise(const float* weight, const float* bias, const float* const* rows, int taps, int channels, float* y) {
  for (int c = 0; c < channels; ++c) {
    float sum = bias[c];
    for (int i = 0; i < taps; ++i) {
      if (rows[i] != nullptr) sum += weight[int64_t{i} * channels + c] * rows[i][c];
    }
    y[c] = sum;
  }
}

void attention(const AttentionSpan* spans, int span_count, int head_width, float scale, float* scores, float* out) {
  const int value_stride = round_to_block(head_width);
  int64_t total = 0;
  for (int s = 0; s < span_count; ++s) {
    const AttentionSpan& span = spans[s];
    for (int64_t slot = span.first; slot < span.first + span.count; ++slot) {
      float dot = 0.0f;
      for (int d = 0; d < head_width; ++d) dot += span.query[d] * span.keys[d * span.capacity + slot];
      scores[total++] = dot * scale;
    }
  }
  const float highest = *std::max_element(scores, scores + total);
  float sum = 0.0f;
  for (int64_t i = 0; i < total; ++i) sum += scores[i] = std::exp(scores[i] - highest);

  std::fill(out, out + head_width, 0.0f);
  int64_t i = 0;
  for (int s = 0; s < span_count; ++s) {
    const AttentionSpan& span = spans[s];
    for (int64_t slot = span.first; slot < span.first + span.count; ++slot, ++i) {
      for (int d = 0; d < head_width; ++d) out[d] += scores[i] * span.values[slot * value_stride + d];
    }
  }
  for (int d = 0; d < head_width; ++d) out[d] /= sum;
}

}  // namespace

const Kernels kRefKernels = {CpuLevel::kRef, 1, 1, linear, layer_norm, gelu, depthwise, attention};

}  // namespace unils
