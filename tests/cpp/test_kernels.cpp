// Every kernel of every level that runs here against a double-precision recomputation and against ref, at odd sizes and
// unaligned pointers; and that memory beside the outputs is left alone.
#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "kernels/kernels.h"

namespace unils {
extern const Kernels kSixteenLanes;  // sixteen_lanes.cpp
}  // namespace unils

using namespace unils;

namespace {

std::mt19937 random_bits(3);

// Values at an address that is aligned to nothing but a float, with a canary on both sides.
class Buffer {
 public:
  explicit Buffer(int64_t count, float scale = 1.0f, int shift = static_cast<int>(random_bits() % 5))
      : count_(count), values_(static_cast<size_t>(count + 32 + shift), kCanary), data_(values_.data() + 16 + shift) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count; ++i) data_[i] = normal(random_bits) * scale;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  float* data() { return data_; }
  float& operator[](int64_t i) { return data_[i]; }
  float operator[](int64_t i) const { return data_[i]; }
  bool sides_are_intact() const {
    const auto is_canary = [](float value) { return value == kCanary; };
    return std::all_of(values_.data(), static_cast<const float*>(data_), is_canary) &&
           std::all_of(static_cast<const float*>(data_ + count_), values_.data() + values_.size(), is_canary);
  }

 private:
  static constexpr float kCanary = 12345.0f;
  int64_t count_;
  std::vector<float> values_;
  float* data_;
};

std::vector<const Kernels*> kernels_here() {
  std::vector<const Kernels*> all;
  for (const CpuLevel level : {CpuLevel::kRef, CpuLevel::kNeon, CpuLevel::kAvx2, CpuLevel::kAvx512}) {
    if (cpu_supports(level)) all.push_back(kernels_for(level));
  }
  return all;
}

void test_linear(const Kernels& k) {
  for (const int out : {1, 3, 7, 8, 15, 16, 17, 31, 33, 47, 55, 63, 64, 65, 100, 160}) {
    for (const int in : {1, 2, 5, 24, 33, 160}) {
      Buffer weight(int64_t{out} * in), bias(out);
      Buffer packed(packed_floats(k, out, in)), packed_without(packed_floats(k, out, in));
      const PackedLinear linear = pack_linear(k, weight.data(), bias.data(), out, in, packed.data());
      const PackedLinear without = pack_linear(k, weight.data(), nullptr, out, in, packed_without.data());
      CHECK(packed.sides_are_intact() && packed_without.sides_are_intact());
      for (const int rows : {1, 2, 3, 6, 11}) {
        const int64_t x_stride = in + 3, y_stride = out + 5;
        Buffer x(rows * x_stride), y(rows * y_stride);
        Buffer before(rows * y_stride);
        std::memcpy(before.data(), y.data(), static_cast<size_t>(rows * y_stride) * sizeof(float));
        const auto expect = [&](bool with_bias, bool add) {
          for (int m = 0; m < rows; ++m) {
            for (int64_t o = 0; o < y_stride; ++o) {
              double sum = o < out && with_bias ? double{bias[o]} : 0.0;
              for (int i = 0; o < out && i < in; ++i) sum += double{weight[o * in + i]} * double{x[m * x_stride + i]};
              if (o >= out || add) sum += double{before[m * y_stride + o]};
              CHECK_NEAR(y[m * y_stride + o], sum, 1e-5 * std::sqrt(in));
            }
          }
          CHECK(y.sides_are_intact());
          std::memcpy(y.data(), before.data(), static_cast<size_t>(rows * y_stride) * sizeof(float));
        };
        k.linear(linear, x.data(), x_stride, y.data(), y_stride, rows, false);
        expect(true, false);
        k.linear(linear, x.data(), x_stride, y.data(), y_stride, rows, true);
        expect(true, true);
        k.linear(without, x.data(), x_stride, y.data(), y_stride, rows, false);
        expect(false, false);
      }
    }
  }
}

// The sums of a row must not depend on which rows are computed with it, nor on its place among them.
void test_linear_rows_do_not_touch_each_other(const Kernels& k) {
  constexpr int kMostRows = 33;
  const int in = 160;
  for (const int out : {77, 160, 24}) {
    Buffer weight(int64_t{out} * in), bias(out), x(kMostRows * in), together(int64_t{kMostRows} * out);
    Buffer alone(int64_t{kMostRows} * out), packed(packed_floats(k, out, in));
    const PackedLinear linear = pack_linear(k, weight.data(), bias.data(), out, in, packed.data());
    for (const bool add : {false, true}) {
      std::fill(alone.data(), alone.data() + int64_t{kMostRows} * out, 0.1f);
      for (int m = 0; m < kMostRows; ++m) {
        k.linear(linear, x.data() + m * in, in, alone.data() + m * out, out, 1, add);
      }
      for (int rows = 1; rows <= kMostRows; ++rows) {
        std::fill(together.data(), together.data() + int64_t{kMostRows} * out, 0.1f);
        k.linear(linear, x.data(), in, together.data(), out, rows, add);
        CHECK(std::memcmp(alone.data(), together.data(), static_cast<size_t>(rows * out) * sizeof(float)) == 0);
        CHECK(std::all_of(together.data() + rows * out, together.data() + kMostRows * out,
                          [](float value) { return value == 0.1f; }));
      }
    }
  }
}

void test_layer_norm(const Kernels& k) {
  for (const int n : {1, 2, 7, 8, 9, 16, 21, 30, 33, 128, 160, 163}) {
    Buffer x(n, 3.0f), weight(n), bias(n), y(n);
    for (int i = 0; i < n; ++i) x[i] += 50.0f;
    double mean = 0.0, variance = 0.0;
    for (int i = 0; i < n; ++i) mean += double{x[i]} / n;
    for (int i = 0; i < n; ++i) variance += (double{x[i]} - mean) * (double{x[i]} - mean) / n;
    k.layer_norm(x.data(), weight.data(), bias.data(), y.data(), n);
    for (int i = 0; i < n; ++i) {
      CHECK_NEAR(y[i], (double{x[i]} - mean) / std::sqrt(variance + 1e-5) * double{weight[i]} + double{bias[i]},
                 n == 1 ? 1e-6 : 3e-5);
    }
    CHECK(y.sides_are_intact());
    Buffer in_place(n);
    std::memcpy(in_place.data(), x.data(), static_cast<size_t>(n) * sizeof(float));
    k.layer_norm(in_place.data(), weight.data(), bias.data(), in_place.data(), n);
    CHECK(std::memcmp(in_place.data(), y.data(), static_cast<size_t>(n) * sizeof(float)) == 0);
  }
}

void test_gelu(const Kernels& k) {
  for (const int n : {1, 7, 8, 15, 17, 33, 1001}) {
    Buffer x(n, 4.0f);
    if (n == 1001) {
      const float corners[] = {0.0f,   -0.0f,   1e-30f, -1e-30f, 12.0f, -12.0f,
                               100.0f, -100.0f, 1e15f,  -1e15f,  1e38f, -1e38f};
      std::copy(std::begin(corners), std::end(corners), x.data());
    }
    std::vector<double> expected;
    for (int i = 0; i < n; ++i) {
      const double v = double{x[i]};
      expected.push_back(0.5 * v * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (v + 0.044715 * v * v * v))));
    }
    k.gelu(x.data(), n);
    for (int i = 0; i < n; ++i) {
      const double at = expected[static_cast<size_t>(i)];
      CHECK_NEAR(x[i], at, 1e-6 + 1e-6 * std::fabs(at));
    }
    CHECK(x.sides_are_intact());
  }
}

void test_depthwise(const Kernels& k) {
  for (const int channels : {1, 7, 16, 19, 33, 128, 131}) {
    for (const int taps : {1, 3, 5, 7}) {
      Buffer weight(int64_t{taps} * channels), bias(channels), rows(int64_t{taps} * channels), y(channels);
      std::vector<const float*> pointers;
      for (int i = 0; i < taps; ++i) pointers.push_back(i == 1 ? nullptr : rows.data() + i * channels);
      k.depthwise(weight.data(), bias.data(), pointers.data(), taps, channels, y.data());
      for (int c = 0; c < channels; ++c) {
        double sum = double{bias[c]};
        for (int i = 0; i < taps; ++i) {
          if (i != 1) sum += double{weight[i * channels + c]} * double{rows[i * channels + c]};
        }
        CHECK_NEAR(y[c], sum, 1e-5);
      }
      CHECK(y.sides_are_intact());
    }
  }
}

struct Store {
  Store(int head_width, int64_t capacity)
      : capacity(capacity), keys(head_width * capacity), values(capacity * round_to_block(head_width)) {}
  int64_t capacity;
  Buffer keys, values;
  AttentionSpan span(const float* query, int64_t first, int64_t count) {
    return {query, keys.data(), values.data(), capacity, first, count};
  }
};

void test_attention(const Kernels& k) {
  for (const int head_width : {2, 8, 10, 16, 30, 32, 64, 100}) {
    const int stride = round_to_block(head_width);
    Store prefix(head_width, 16), ring(head_width, 144);
    Buffer plain(head_width), rotated(head_width), out(head_width);
    const float scale = 1.5f / std::sqrt(static_cast<float>(head_width));
    const std::vector<std::vector<AttentionSpan>> cases = {
        {ring.span(rotated.data(), 0, 1)},
        {ring.span(rotated.data(), 143, 1)},
        {prefix.span(plain.data(), 0, 5), ring.span(rotated.data(), 3, 14)},
        {prefix.span(plain.data(), 0, 16), ring.span(rotated.data(), 77, 67), ring.span(rotated.data(), 0, 61)},
        {prefix.span(plain.data(), 0, 3), ring.span(rotated.data(), 141, 3), ring.span(rotated.data(), 0, 141)},
        {ring.span(rotated.data(), 0, 144)},
    };
    for (const std::vector<AttentionSpan>& spans : cases) {
      std::vector<double> weights;
      double highest = -1e300, total = 0.0;
      for (const AttentionSpan& span : spans) {
        for (int64_t slot = span.first; slot < span.first + span.count; ++slot) {
          double dot = 0.0;
          for (int d = 0; d < head_width; ++d)
            dot += double{span.query[d]} * double{span.keys[d * span.capacity + slot]};
          weights.push_back(dot * double{scale});
          highest = std::max(highest, weights.back());
        }
      }
      for (double& weight : weights) total += weight = std::exp(weight - highest);
      Buffer scores(static_cast<int64_t>(weights.size()) + kSlotBlock);
      k.attention(spans.data(), static_cast<int>(spans.size()), head_width, scale, scores.data(), out.data());
      for (int d = 0; d < head_width; ++d) {
        double sum = 0.0;
        size_t i = 0;
        for (const AttentionSpan& span : spans) {
          for (int64_t slot = span.first; slot < span.first + span.count; ++slot) {
            sum += weights[i++] / total * double{span.values[slot * stride + d]};
          }
        }
        CHECK_NEAR(out[d], sum, 1e-5);
      }
      CHECK(out.sides_are_intact() && scores.sides_are_intact());
    }
  }
}

// The same keys and values at any rotation of the ring give the same bits: a wrap does not change the order of a sum.
void test_attention_does_not_see_where_the_ring_wraps(const Kernels& k) {
  const int head_width = 30, stride = round_to_block(head_width);
  const int64_t capacity = 48, count = 41;
  Store at_zero(head_width, capacity);
  Buffer query(head_width), first(head_width), out(head_width), scores(count + kSlotBlock);
  const AttentionSpan whole = at_zero.span(query.data(), 0, count);
  k.attention(&whole, 1, head_width, 0.3f, scores.data(), first.data());
  for (int64_t shift = 1; shift < capacity; ++shift) {
    Store turned(head_width, capacity);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t slot = (i + shift) % capacity;
      for (int d = 0; d < head_width; ++d) turned.keys[d * capacity + slot] = at_zero.keys[d * capacity + i];
      for (int d = 0; d < stride; ++d) turned.values[slot * stride + d] = at_zero.values[i * stride + d];
    }
    const int64_t run = std::min(count, capacity - shift);
    const AttentionSpan spans[] = {turned.span(query.data(), shift, run), turned.span(query.data(), 0, count - run)};
    k.attention(spans, run < count ? 2 : 1, head_width, 0.3f, scores.data(), out.data());
    CHECK(std::memcmp(out.data(), first.data(), static_cast<size_t>(head_width) * sizeof(float)) == 0);
  }
}

}  // namespace

int main() {
  std::vector<const Kernels*> all = kernels_here();
  all.push_back(&unils::kSixteenLanes);
  for (const Kernels* kernels : all) {
    std::printf("%s\n", kernels == &unils::kSixteenLanes ? "16 lanes of plain code" : cpu_level_name(kernels->level));
    test_linear(*kernels);
    test_linear_rows_do_not_touch_each_other(*kernels);
    test_layer_norm(*kernels);
    test_gelu(*kernels);
    test_depthwise(*kernels);
    test_attention(*kernels);
    test_attention_does_not_see_where_the_ring_wraps(*kernels);
  }
  return check::result();
}
