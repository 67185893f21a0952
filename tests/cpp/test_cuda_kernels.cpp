// CUDA kernels against the scalar truth of each (csrc/kernels/ref, or the stage of the engine that it stands for): odd
// sizes, every wrap position, one row to thousands.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "core/bits.h"
#include "cuda_driver.h"
#include "engine/kv_ring.h"
#include "engine/rope.h"
#include "engine/row_ring.h"
#include "engine/sampler.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/float16.h"
#include "kernels/tables.h"

using namespace unils;
using namespace unils::cuda;

namespace {

void test_16_bit_formats_round_to_the_nearest_even() {
  const auto check_format = [](auto of_float, auto to_float, uint16_t largest) {
    for (uint16_t half = 0; half < largest; ++half) {
      const float value = to_float(half), next = to_float(static_cast<uint16_t>(half + 1));
      const float middle = static_cast<float>((double{value} + double{next}) / 2);
      const uint16_t even = half % 2 == 0 ? half : static_cast<uint16_t>(half + 1);
      const bool right = of_float(value) == half && of_float(-value) == (half | 0x8000) && of_float(middle) == even &&
                         of_float(std::nextafterf(middle, 0.0f)) == half &&
                         of_float(std::nextafterf(middle, INFINITY)) == half + 1;
      if (!right) CHECK(half == 0 && !"a 16-bit number is not its own nearest");
    }
    CHECK(std::isinf(to_float(of_float(3e38f * 2))));
    CHECK(std::isnan(to_float(of_float(NAN))));
  };
  check_format(fp16_of, float_of_fp16, 0x7bff);
  check_format(bf16_of, float_of_bf16, 0x7f7e);
  CHECK(float_of_fp16(fp16_of(65519.0f)) == 65504.0f && std::isinf(float_of_fp16(fp16_of(65520.0f))));
}

struct LinearTest {
  int in, out, rows, first = 0;
  bool norm = false, gelu = false, add = false, affine = false;
};

float rounded(float value, Element element) {
  return element == Element::kFloat32 ? value
         : element == Element::kFp16  ? float_of_fp16(fp16_of(value))
                                      : float_of_bf16(bf16_of(value));
}

// What every kernel makes of a case; each checked against double.
void check_linear(const LinearTest& test, Element element, const std::vector<LinearKernel>& kernels) {
  const int all_rows = test.first + test.rows + 2, x_stride = test.in + 3, y_stride = test.out + 1;
  const LinearShape shape = {test.in, test.out};
  const auto in = static_cast<size_t>(test.in), out = static_cast<size_t>(test.out);
  const std::vector<float> weight = random_floats(in * out, 1, 1.0f / std::sqrt(static_cast<float>(test.in)));
  std::vector<float> bias = random_floats(out, 2);
  const std::vector<float> x = random_floats(static_cast<size_t>(all_rows * x_stride), 3);
  const std::vector<float> before = random_floats(static_cast<size_t>(all_rows * y_stride), 4);
  const std::vector<float> gain = random_floats(in, 5), offset = random_floats(in, 6);
  const std::vector<float> scale = random_floats(out, 7), shift = random_floats(out, 8);
  std::vector<char> packed(static_cast<size_t>(shape.weight_bytes(element)));
  pack_linear(shape, weight.data(), element, packed.data());

  std::vector<float> expected = before;
  for (int r = test.first; r < test.first + test.rows; ++r) {
    const float* row = x.data() + r * x_stride;
    std::vector<float> input(row, row + test.in);
    if (test.norm) {
      double mean = 0.0, squares = 0.0;
      for (const float v : input) mean += double{v} / test.in;
      for (const float v : input) squares += (v - mean) * (v - mean) / test.in;
      for (size_t k = 0; k < in; ++k) {
        input[k] = static_cast<float>((input[k] - mean) / std::sqrt(squares + 1e-5) * gain[k] + offset[k]);
      }
    }
    for (size_t o = 0; o < out; ++o) {
      double sum = double{bias[o]};
      for (size_t k = 0; k < in; ++k) sum += double{rounded(weight[o * in + k], element)} * rounded(input[k], element);
      if (test.gelu) sum = 0.5 * sum * (1.0 + std::tanh(0.7978845608028654 * (sum + 0.044715 * sum * sum * sum)));
      if (test.affine) sum = sum * scale[o] + shift[o];
      float& y = expected[static_cast<size_t>(r * y_stride) + o];
      y = static_cast<float>(test.add ? double{y} + sum : sum);
    }
  }

  bias.resize(static_cast<size_t>(shape.padded_out()));
  const OnDevice<char> device_weight(packed);
  const OnDevice<float> device_bias(bias), device_x(x), device_gain(gain), device_offset(offset), device_scale(scale),
      device_shift(shift);
  const OnDevice<RowRange> range(std::vector<RowRange>{{test.first, test.rows}});
  const TestStream stream;
  std::vector<float> of_first;
  for (const LinearKernel kernel : kernels) {
    const OnDevice<float> y(before);
    LinearCall call = {};
    call.linear = {device_weight.get(), device_bias.get(), test.in, test.out, element};
    if (test.norm) call.norm = {device_gain.get(), device_offset.get()};
    call.rows = range.get(), call.max_rows = test.rows + 5;  // as a bucket has room for more
    call.x = device_x.get(), call.x_stride = x_stride;
    call.y = y.get(), call.y_stride = y_stride;
    call.gelu = test.gelu, call.add = test.add;
    if (test.affine) call.scale = device_scale.get(), call.shift = device_shift.get();
    linear(call, kernel, stream);
    CHECK_CUDA(cudaGetLastError());
    const std::vector<float> made = y.read();
    // An input within a hair of a tie may be rounded otherwise after a norm.
    const float tolerance = element == Element::kFloat32 || !test.norm ? 2e-5f : element == Element::kFp16 ? 1e-3f : 8e-3f;
    CHECK_NEAR(furthest(made, expected), 0.0f, tolerance);
    if (of_first.empty()) of_first = made;
    CHECK(made == of_first);  // bit for bit, whichever kernel a batch gets
  }
}

const std::vector<LinearKernel> kAllLinear = {LinearKernel::kFewRows, LinearKernel::kSomeRows, LinearKernel::kManyRows};

void test_linear_layers_of_every_size_and_kernel() {
  for (const Element element : {Element::kFloat32, Element::kFp16, Element::kBf16}) {
    for (const int rows : {1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33, 65, 130}) {
      check_linear({33, 7, rows, rows % 3, rows % 2 == 0, rows % 3 == 0, rows % 4 == 1, rows % 5 == 0}, element, kAllLinear);
    }
    for (const LinearTest& shape : {LinearTest{1, 1, 3}, {2, 65, 5}, {31, 64, 2, 1, true}, {32, 63, 6}, {64, 1, 9, 0, true},
                                    {255, 66, 4, 0, true, true}, {257, 10, 4}, {321, 129, 2, 0, false, false, true}}) {
      check_linear(shape, element, kAllLinear);
    }
  }
}

void test_linear_layers_of_thousands_of_rows() {
  for (const int rows : {1024, 4097}) {
    for (const Element element : {Element::kFloat32, Element::kBf16}) {
      check_linear({35, 5, rows, 1, true}, element, {LinearKernel::kManyRows});
    }
  }
}

// Hops of both tracks of a few sessions, over a wrap of the kept hops, and again after a rewind.
void test_log_mel_rows_equal_those_of_the_host() {
  const LogMelConfig config;
  const Framer framer(config, 640);
  const LogMel tables(config);
  const int history = config.window_samples - config.step_samples, kept = Framer::kKeptRows, values = framer.row_values();
  std::vector<int32_t> first, count, at;
  for (const LogMel::Filter& filter : tables.filters()) {
    first.push_back(filter.first), count.push_back(filter.count), at.push_back(static_cast<int32_t>(filter.weights));
  }
  const OnDevice<double> hann(tables.hann()), cosines(tables.fft().cosines()), sines(tables.fft().sines()),
      weights(tables.weights());
  const OnDevice<int32_t> reversed(tables.fft().reversed()), firsts(first), counts(count), ats(at);
  const std::vector<float> mean = random_floats(64, 1), deviation(64, 2.5f);
  const OnDevice<float> mel_mean(mean), mel_std(deviation);

  constexpr int kStreams = 6;  // a state each, of which each uses one track
  const size_t state_floats = 8 + 2 * static_cast<size_t>(kept * history);
  std::vector<float> states(kStreams * state_floats, 0.5f);
  const OnDevice<float> device_states(states);
  std::vector<std::vector<float>> host(kStreams, std::vector<float>(framer.state_floats(), 0.5f));
  OnDevice<float> sounds(kStreams * 700), normal(static_cast<size_t>(kStreams * values));
  OnDevice<Place> places(kStreams);
  std::vector<int32_t> track_of, ready_of(kStreams, 0);
  for (int s = 0; s < kStreams; ++s) track_of.push_back(s % 2);
  ready_of[4] = 1;
  const OnDevice<int32_t> tracks(track_of), ready(ready_of);
  const OnDevice<RowRange> range(std::vector<RowRange>{{0, kStreams}});
  const TestStream stream;

  LogMelCall call = {};
  call.tables = {config.window_samples, config.step_samples, 640, config.fft_size, config.mels, config.floor, hann.get(),
                 cosines.get(), sines.get(), reversed.get(), firsts.get(), counts.get(), ats.get(), weights.get()};
  call.rows = range.get(), call.max_rows = kStreams + 3;
  call.places = places.get(), call.tracks = tracks.get(), call.is_log_mel = ready.get();
  call.sounds = sounds.get(), call.sound_stride = 700;
  call.history[0] = 8, call.history[1] = 8 + kept * history, call.kept_hops = kept;
  call.mel_mean = mel_mean.get(), call.mel_std = mel_std.get();
  call.normal = normal.get();

  std::vector<float> line(framer.scratch_floats()), row(static_cast<size_t>(values));
  std::vector<double> scratch(framer.scratch_doubles());
  std::vector<int64_t> order;
  for (int64_t r = 0; r < 40; ++r) order.push_back(r);
  for (int64_t r = 25; r < 70; ++r) order.push_back(r);
  for (const int64_t r : order) {
    std::vector<Place> place;
    std::vector<float> heard(kStreams * 700), expected;
    for (int s = 0; s < kStreams; ++s) {
      place.push_back({device_states.get() + static_cast<size_t>(s) * state_floats, r});
      std::vector<float> hop = made_up_hop(s, s % 2, r);
      if (s == 5) std::fill(hop.begin(), hop.end(), 0.0f);  // silence: every energy at the floor
      if (ready_of[static_cast<size_t>(s)] != 0) {
        row = random_floats(row.size(), static_cast<unsigned>(r), 4.0f);
        std::copy(row.begin(), row.end(), heard.begin() + s * 700);
      } else {
        framer.row(host[static_cast<size_t>(s)].data(), line.data(), scratch.data(), r, hop.data(), row.data());
        std::copy(hop.begin(), hop.end(), heard.begin() + s * 700);
      }
      for (size_t i = 0; i < row.size(); ++i) expected.push_back((row[i] - mean[i % 64]) / 2.5f);
    }
    places.write(place);
    sounds.write(heard);
    log_mel(call, stream);
    CHECK_CUDA(cudaGetLastError());
    CHECK_NEAR(furthest(normal.read(), expected), 0.0f, 2e-6f);
  }
  states = device_states.read();
  for (int s = 0; s < kStreams; ++s) {
    const float* kept_hops = states.data() + static_cast<size_t>(s) * state_floats + (s % 2 == 0 ? 8 : 8 + kept * history);
    CHECK(std::equal(host[static_cast<size_t>(s)].begin(), host[static_cast<size_t>(s)].end(), kept_hops));
  }
}

// Streams at every position of the ring at once, over two wraps, and the same rows as a clip.
void test_causal_convolutions_at_every_wrap_position() {
  for (const int width : {1, 19, 130}) {
    for (const int kernel : {1, 3, 6}) {
      constexpr int kBlocks = 2;
      ArenaLayout layout;
      const RowRing other(&layout, kBlocks, width, kernel), ring(&layout, kBlocks, width, kernel + 2);
      const RowRingAt ring_at = {static_cast<int64_t>(ring.offset() / 4), ring.index().capacity(), width};
      const int streams = static_cast<int>(ring.index().capacity()), rows = 2 * streams + 1;
      const size_t state_floats = layout.bytes() / sizeof(float);
      const std::vector<float> weight = random_floats(static_cast<size_t>(kernel * width), 1);
      const std::vector<float> bias = random_floats(static_cast<size_t>(width), 2);
      const OnDevice<float> device_weight(weight), device_bias(bias);
      OnDevice<float> states(std::vector<float>(state_floats * static_cast<size_t>(streams)));
      OnDevice<float> x(static_cast<size_t>(streams * width)), y(static_cast<size_t>(streams * width));
      OnDevice<Place> places(static_cast<size_t>(streams));
      const OnDevice<int32_t> tracks(std::vector<int32_t>(static_cast<size_t>(streams), 1));
      const OnDevice<RowRange> range(std::vector<RowRange>{{0, streams}}), clip_range(std::vector<RowRange>{{0, rows}});
      const TestStream stream;
      const auto row_of = [&](int s, int64_t t) {
        return random_floats(static_cast<size_t>(width), static_cast<unsigned>(100 + 97 * s + t));
      };
      CausalConvCall call = {};
      call.rows = range.get(), call.max_rows = streams + 1;
      call.places = places.get(), call.tracks = tracks.get();
      call.rings[1] = ring_at;
      call.block = 1, call.kernel = kernel, call.width = width;
      call.weight = device_weight.get(), call.bias = device_bias.get();
      call.x = x.get(), call.y = y.get();
      std::vector<float> of_stream_0, clip;
      for (int64_t t = 0; t < rows; ++t) {
        std::vector<Place> place;
        std::vector<float> inputs, expected(static_cast<size_t>(streams * width));
        for (int s = 0; s < streams; ++s) {
          place.push_back({states.get() + static_cast<size_t>(s) * state_floats, t});
          std::vector<std::vector<float>> taps;
          std::vector<const float*> pointers;
          for (int64_t at = t - kernel + 1; at <= t; ++at) taps.push_back(at < 0 ? std::vector<float>() : row_of(s, at));
          for (const std::vector<float>& tap : taps) pointers.push_back(tap.empty() ? nullptr : tap.data());
          inputs.insert(inputs.end(), taps.back().begin(), taps.back().end());
          kRefKernels.depthwise(weight.data(), bias.data(), pointers.data(), kernel, width, expected.data() + s * width);
        }
        places.write(place);
        x.write(inputs);
        causal_conv(call, stream);
        CHECK_CUDA(cudaGetLastError());
        const std::vector<float> made = y.read();
        CHECK_NEAR(furthest(made, expected), 0.0f, 2e-6f);
        of_stream_0.insert(of_stream_0.end(), made.begin(), made.begin() + width);
        clip.insert(clip.end(), inputs.begin(), inputs.begin() + width);
      }
      const OnDevice<float> clip_x(clip), clip_y(clip.size());
      call.places = nullptr, call.tracks = nullptr;
      call.rows = clip_range.get(), call.max_rows = rows;
      call.x = clip_x.get(), call.y = clip_y.get();
      causal_conv(call, stream);
      CHECK(clip_y.read() == of_stream_0);
    }
  }
}

struct AttentionTest {
  int heads, head_width, window, look_ahead, style_tokens, streams;
  int64_t first_frame;
  bool append;  // as in self-attention; otherwise rows are appended as those of a track are
};

// The ring of every stream is filled as an engine would, frame by frame, and each frame's attention held to ref.
void check_attention(const AttentionTest& test, int frames) {
  constexpr int kLayers = 2, kLayer = 1;
  ArenaLayout layout;
  const KvRing style(&layout, kLayers, test.heads, test.head_width, test.style_tokens);
  const KvRing ring(&layout, kLayers, test.heads, test.head_width, test.window + test.look_ahead);
  const auto view = [](const KvRing& of) {
    return KvRingAt{static_cast<int64_t>(of.offset() / 4), of.index().capacity(), static_cast<int32_t>(of.heads()),
                    static_cast<int32_t>(of.head_width()), static_cast<int32_t>(of.value_stride())};
  };
  const int W = test.heads * test.head_width, pairs = test.head_width / 2, streams = test.streams;
  const auto width = static_cast<size_t>(W), n = static_cast<size_t>(streams);
  const size_t state_floats = layout.bytes() / sizeof(float);
  const Rope rope(test.head_width);
  std::vector<double> frequencies;
  for (int i = 0; i < test.head_width; i += 2) frequencies.push_back(std::pow(10000.0, -static_cast<double>(i) / test.head_width));
  const OnDevice<double> device_frequencies(frequencies);

  std::vector<std::vector<float>> host(n, std::vector<float>(state_floats));
  OnDevice<float> states(std::vector<float>(n * state_floats));
  const TestStream stream;
  const std::vector<float> style_qkv = random_floats(static_cast<size_t>(test.style_tokens) * 3 * width, 11);
  const OnDevice<float> device_style(style_qkv.empty() ? std::vector<float>(1) : style_qkv);
  for (size_t s = 0; s < n; ++s) {
    for (int j = 0; j < test.style_tokens; ++j) {
      const float* key = style_qkv.data() + (static_cast<size_t>(j) * 3 + 1) * width;
      style.write(host[s].data(), kLayer, j, key, key + W);
    }
    if (test.style_tokens > 0) {
      write_style({states.get() + s * state_floats, view(style), kLayer, test.style_tokens, device_style.get()}, stream);
    }
  }

  OnDevice<Place> places(n);
  std::vector<int32_t> order(n), ahead(n);
  for (size_t s = 0; s < n; ++s) order[s] = static_cast<int32_t>(n - 1 - s);  // rows in another order than steps
  for (size_t s = 0; s < n; ++s) ahead[s] = static_cast<int32_t>(s) % (test.look_ahead + 1);
  const OnDevice<int32_t> step_of(order), look_ahead(ahead), tracks(std::vector<int32_t>(n, 0));
  const OnDevice<RowRange> range(std::vector<RowRange>{{0, streams}});
  OnDevice<float> qkv(n * 3 * width), rows(n * 2 * 2 * width), cosines(n * static_cast<size_t>(pairs)),
      sines(n * static_cast<size_t>(pairs)), out(n * width);

  // The key and value of a position, and the query of a frame, of each stream.
  const auto triple = [&](size_t s, int64_t position) {
    return random_floats(3 * width, static_cast<unsigned>(s * 100003 + static_cast<size_t>(position) + 17));
  };
  const auto append_on_host = [&](size_t s, int64_t position) {
    std::vector<float> values = triple(s, position), c(static_cast<size_t>(pairs)), sn(static_cast<size_t>(pairs));
    rope.row(position, c.data(), sn.data());
    rope.rotate(values.data() + W, test.heads, c.data(), sn.data(), values.data() + W);
    ring.write(host[s].data(), kLayer, position, values.data() + W, values.data() + 2 * W);
  };
  const auto append_on_device = [&](int64_t position) {
    std::vector<Place> place;
    std::vector<float> keys_values(n * 4 * width);  // of two layers, of which the second is looked at
    for (size_t s = 0; s < n; ++s) {
      place.push_back({states.get() + s * state_floats, position});
      const std::vector<float> values = triple(s, position);
      std::copy(values.begin() + W, values.end(), keys_values.begin() + static_cast<long>((s * 2 + 1) * 2 * width));
    }
    places.write(place);
    rows.write(keys_values);
    KvAppendCall call = {};
    call.rows = range.get(), call.max_rows = streams + 1;
    call.places = places.get(), call.tracks = tracks.get();
    call.rings[0] = view(ring);
    call.depth = kLayers, call.frequencies = device_frequencies.get(), call.keys_values = rows.get();
    append_keys_values(call, stream);
    CHECK_CUDA(cudaDeviceSynchronize());
  };

  int64_t known = test.first_frame;
  for (int64_t frame = test.first_frame; frame < test.first_frame + frames; ++frame) {
    for (; known <= frame + (test.append ? 0 : test.look_ahead); ++known) {
      for (size_t s = 0; s < n; ++s) append_on_host(s, known);
      if (!test.append) append_on_device(known);
    }
    std::vector<Place> place;
    std::vector<float> all_qkv(n * 3 * width), c(n * static_cast<size_t>(pairs)), sn(c.size()), expected(n * width);
    for (size_t s = 0; s < n; ++s) {
      place.push_back({states.get() + s * state_floats, frame});
      rope.row(frame, c.data() + s * static_cast<size_t>(pairs), sn.data() + s * static_cast<size_t>(pairs));
      const std::vector<float> values = triple(s, frame);
      const size_t row = n - 1 - s;
      std::copy(values.begin(), values.end(), all_qkv.begin() + static_cast<long>(row * 3 * width));
      std::vector<float> turned(width), scores(static_cast<size_t>(test.style_tokens + ring.index().capacity()) + kSlotBlock);
      rope.rotate(values.data(), test.heads, c.data() + s * static_cast<size_t>(pairs),
                  sn.data() + s * static_cast<size_t>(pairs), turned.data());
      // Rings were empty before the first frame of the test, so that is how far back it looks.
      const int64_t first = std::max<int64_t>({0, frame - test.window + 1});
      const int64_t count = frame + 1 + (test.append ? 0 : ahead[s]) - first;
      for (int head = 0; head < test.heads; ++head) {
        AttentionSpan spans[3];
        int spans_used = 0;
        if (test.style_tokens > 0) {
          spans[spans_used++] = {values.data() + head * test.head_width, style.keys(host[s].data(), kLayer, head),
                                 style.values(host[s].data(), kLayer, head), style.index().capacity(), 0, test.style_tokens};
        }
        const RingSpans runs = ring.index().spans(first, count);
        for (const RingSpan& run : {runs.older, runs.newer}) {
          if (run.count == 0) continue;
          spans[spans_used++] = {turned.data() + head * test.head_width, ring.keys(host[s].data(), kLayer, head),
                                 ring.values(host[s].data(), kLayer, head), ring.index().capacity(), run.slot, run.count};
        }
        kRefKernels.attention(spans, spans_used, test.head_width, 0.3f, scores.data(),
                              expected.data() + row * width + static_cast<size_t>(head * test.head_width));
      }
    }
    places.write(place);
    qkv.write(all_qkv);
    cosines.write(c), sines.write(sn);
    AttentionCall call = {};
    call.rows = call.steps = range.get();
    call.max_rows = streams + 1;
    call.places = places.get(), call.step_of = step_of.get();
    call.look_ahead = test.append ? nullptr : look_ahead.get();
    call.rings[0] = view(ring);
    call.style = view(style), call.style_tokens = test.style_tokens;
    call.layer = kLayer, call.window = test.window;
    call.cosines = cosines.get(), call.sines = sines.get();
    call.query = qkv.get(), call.query_stride = 3 * W;
    if (test.append) call.key = qkv.get() + W, call.value = qkv.get() + 2 * W;
    call.scale = 0.3f;
    call.out = out.get();
    attention(call, stream);
    CHECK_CUDA(cudaGetLastError());
    // Scores are as large as the root of their dimensions.
    CHECK_NEAR(furthest(out.read(), expected), 0.0f, 1e-6f * std::sqrt(static_cast<float>(test.head_width)) + 2e-6f);
  }
  const std::vector<float> made = states.read();
  for (size_t s = 0; s < n; ++s) {
    CHECK_NEAR(furthest({made.begin() + static_cast<long>(s * state_floats), made.begin() + static_cast<long>((s + 1) * state_floats)},
                        host[s]),
               0.0f, 1e-6f);
  }
}

void test_attention_at_every_wrap_position() {
  check_attention({3, 10, 13, 0, 5, 3, 0, true}, 40);        // rings of 16 slots
  check_attention({1, 2, 1, 0, 1, 1, 0, true}, 20);
  check_attention({2, 34, 140, 0, 17, 1, 0, true}, 10);      // more slots than threads, more dimensions than lanes
  check_attention({2, 34, 140, 0, 17, 1, 290, true}, 3);     // at a wrap, over slots that are zero
  check_attention({3, 10, 9, 8, 0, 9, 0, false}, 40);        // look-aheads 0..8, rings of 32 slots
  check_attention({1, 66, 5, 0, 0, 2, (int64_t{1} << 40) + 3, false}, 20);  // after a thousand years
  CHECK_CUDA(allow_attention_shared_bytes(60 << 10));  // heads that take more than every kernel may
  check_attention({1, 2050, 3, 0, 2, 1, 0, true}, 3);
}

void test_attention_of_thousands_of_sessions() { check_attention({1, 4, 3, 1, 0, 4097, 14, false}, 3); }

struct HeadTest {
  int levels, bits, head_width, steps;
};
void check_depth_head(const HeadTest& test) {
  const int L = test.levels, d = test.bits, F = test.head_width, all = L * d;
  const auto n = static_cast<size_t>(test.steps), L_d = static_cast<size_t>(all), width = static_cast<size_t>(F);
  std::vector<Sampling> sampling;
  int32_t rows = test.steps;
  for (int s = 0; s < test.steps; ++s) {
    const bool guided = s % 3 != 1;
    sampling.push_back({0x9876543210u + static_cast<uint64_t>(s), s % 2 == 0 ? 0.0f : 0.8f, s % 4 == 3 ? 0.7f : 1.0f,
                        guided ? 1.7f : 1.0f, guided ? rows++ : -1});
  }
  const std::vector<float> hidden = random_floats(static_cast<size_t>(rows) * static_cast<size_t>(L) * width, 1);
  const std::vector<float> bits_weight = random_floats(static_cast<size_t>(d * L * (L - 1) / 2) * width + 1, 2, 0.2f);
  const std::vector<float> output = random_floats(L_d * width, 3, 0.3f), bias = random_floats(L_d, 4), gains = random_floats(static_cast<size_t>(L), 5);
  const OnDevice<float> device_hidden(hidden), device_bits(bits_weight), device_output(output), device_bias(bias),
      device_gains(gains), states(n * (L_d + 4)), logits(n * L_d), latent(n * static_cast<size_t>(d));
  std::vector<Place> place;
  for (size_t s = 0; s < n; ++s) place.push_back({states.get() + s * (L_d + 4), static_cast<int64_t>(s) * 1000003 + (s % 2 == 0 ? 0 : int64_t{1} << 33)});
  const OnDevice<Place> places(place);
  const OnDevice<Sampling> device_sampling(sampling);
  const OnDevice<RowRange> range(std::vector<RowRange>{{0, test.steps}});
  const TestStream stream;
  DepthHeadCall call = {};
  call.steps = range.get(), call.max_steps = test.steps + 1;
  call.places = places.get(), call.sampling = device_sampling.get();
  call.bits_offset = 3;
  call.levels = L, call.bits = d, call.head_width = F;
  call.hidden = device_hidden.get();
  call.bits_weight = device_bits.get(), call.output_weight = device_output.get(), call.output_bias = device_bias.get();
  call.gains = device_gains.get();
  call.logits = logits.get(), call.latent = latent.get();
  depth_head(call, stream);
  CHECK_CUDA(cudaGetLastError());
  const std::vector<float> made_logits = logits.read(), made_latent = latent.read(), made_states = states.read();

  for (size_t s = 0; s < n; ++s) {
    const float* bits = made_states.data() + s * (L_d + 4) + 3;
    std::vector<float> expected(L_d), drawn(L_d), expected_latent(static_cast<size_t>(d));
    const float* weights = bits_weight.data();
    for (int level = 0; level < L; ++level) {
      const int known = level * d;
      for (int bit = 0; bit < d; ++bit) {
        double logit[2] = {};
        for (int row = 0; row < (sampling[s].row_without_audio >= 0 ? 2 : 1); ++row) {
          const size_t at = row == 0 ? s : static_cast<size_t>(sampling[s].row_without_audio);
          double sum = double{bias[static_cast<size_t>(known + bit)]};
          for (int f = 0; f < F; ++f) {
            double u = double{hidden[at * static_cast<size_t>(L * F) + static_cast<size_t>(level * F + f)]};
            for (int i = 0; i < known; ++i) u += double{weights[i * F + f]} * double{bits[i]};
            u = 0.5 * u * (1.0 + std::tanh(0.7978845608028654 * (u + 0.044715 * u * u * u)));
            sum += u * double{output[static_cast<size_t>((known + bit) * F + f)]};
          }
          logit[row] = sum;
        }
        const double c = double{sampling[s].cfg_scale};
        expected[static_cast<size_t>(known + bit)] =
            static_cast<float>(sampling[s].row_without_audio >= 0 ? c * logit[0] + (1.0 - c) * logit[1] : logit[0]);
      }
      // The draw itself is exact: from the device's own logits the host makes the same bits.
      sample_bits(made_logits.data() + s * L_d + known, d, sampling[s].temperature, sampling[s].top_p, sampling[s].seed,
                  place[s].position, level, drawn.data() + known);
      weights += known * F;
    }
    CHECK_NEAR(furthest({made_logits.begin() + static_cast<long>(s * L_d), made_logits.begin() + static_cast<long>((s + 1) * L_d)}, expected), 0.0f, 1e-4f);
    CHECK(std::equal(drawn.begin(), drawn.end(), bits));
    bits_to_latent(bits, gains.data(), L, d, expected_latent.data());
    CHECK_NEAR(furthest({made_latent.begin() + static_cast<long>(s) * d, made_latent.begin() + static_cast<long>(s + 1) * d}, expected_latent), 0.0f, 1e-6f);
  }
}

void test_the_depth_head_draws_the_bits_that_the_host_draws() {
  check_depth_head({3, 7, 23, 1});
  check_depth_head({3, 7, 23, 9});
  check_depth_head({1, 1, 1, 5});
  check_depth_head({2, 33, 40, 3});
  check_depth_head({4, 5, 9, 261});  // steps in groups, the last of them not full
}

void test_tokens_begin_from_the_bits_of_the_frame_before() {
  constexpr int kSteps = 5, kBits = 21, kWidth = 135, kHeadWidth = 27 * 2;
  const auto n = size_t{kSteps};
  const std::vector<float> weight = random_floats(kBits * kWidth, 1), bias = random_floats(kWidth, 2), start = random_floats(kWidth, 3);
  const std::vector<float> tables[2] = {random_floats(4 * kWidth, 4), random_floats(4 * kWidth, 5)};
  std::vector<float> states = random_floats(n * 30, 6);
  for (float& value : states) value = value > 0.0f ? 1.0f : -1.0f;
  const std::vector<int32_t> ahead[2] = {{0, 1, 2, 3, 0}, {3, 2, 1, 0, 0}};
  const std::vector<int64_t> frames = {0, 1, 7, int64_t{1} << 40, 0};
  std::vector<Sampling> sampling(n, Sampling{0, 1.0f, 1.0f, 1.0f, -1});
  sampling[1].row_without_audio = 5, sampling[4].row_without_audio = 6;
  std::vector<double> frequencies;
  for (int i = 0; i < kHeadWidth; i += 2) frequencies.push_back(std::pow(10000.0, -static_cast<double>(i) / kHeadWidth));
  const OnDevice<float> device_states(states), device_weight(weight), device_bias(bias), device_start(start),
      self(tables[0]), other(tables[1]), x(7 * kWidth), cosines(n * 27), sines(n * 27);
  const OnDevice<double> device_frequencies(frequencies);
  const OnDevice<int32_t> ahead_self(ahead[0]), ahead_other(ahead[1]);
  const OnDevice<Sampling> device_sampling(sampling);
  std::vector<Place> place;
  for (size_t s = 0; s < n; ++s) place.push_back({device_states.get() + s * 30, frames[s]});
  const OnDevice<Place> places(place);
  const OnDevice<RowRange> range(std::vector<RowRange>{{0, kSteps}});
  const TestStream stream;
  TokenCall call = {};
  call.steps = range.get(), call.max_steps = 8;
  call.places = places.get(), call.sampling = device_sampling.get();
  call.look_ahead[0] = ahead_self.get(), call.look_ahead[1] = ahead_other.get();
  call.bits_offset = 4, call.bits = kBits, call.width = kWidth, call.head_width = kHeadWidth;
  call.weight = device_weight.get(), call.bias = device_bias.get(), call.start = device_start.get();
  call.look_ahead_embedding[0] = self.get(), call.look_ahead_embedding[1] = other.get();
  call.frequencies = device_frequencies.get();
  call.x = x.get(), call.cosines = cosines.get(), call.sines = sines.get();
  token(call, stream);
  CHECK_CUDA(cudaGetLastError());
  const std::vector<float> made = x.read(), made_cosines = cosines.read(), made_sines = sines.read();
  std::vector<float> expected(made.size()), c(n * 27), sn(n * 27);
  for (size_t s = 0; s < n; ++s) {
    Rope(kHeadWidth).row(frames[s], c.data() + s * 27, sn.data() + s * 27);
    for (size_t o = 0; o < kWidth; ++o) {
      double value = double{frames[s] == 0 ? start[o] : bias[o]};
      for (size_t i = 0; i < kBits && frames[s] > 0; ++i) value += double{weight[i * kWidth + o]} * double{states[s * 30 + 4 + i]};
      if (sampling[s].row_without_audio >= 0) {
        expected[static_cast<size_t>(sampling[s].row_without_audio) * kWidth + o] = static_cast<float>(value);
      }
      expected[s * kWidth + o] = static_cast<float>(value + tables[0][static_cast<size_t>(ahead[0][s]) * kWidth + o] +
                                                    tables[1][static_cast<size_t>(ahead[1][s]) * kWidth + o]);
    }
  }
  CHECK_NEAR(furthest(made, expected), 0.0f, 5e-6f);
  CHECK_NEAR(furthest(made_cosines, c), 0.0f, 1e-7f);
  CHECK_NEAR(furthest(made_sines, sn), 0.0f, 1e-7f);
}

void test_style_rows_are_quantised_and_pooled() {
  for (const int d : {1, 7, 40}) {
    for (const int rows : {25, 31, 500}) {
      constexpr int kTokens = 7, kLevels = 3;
      std::vector<float> z = random_floats(static_cast<size_t>(rows * d), 1), pooled;
      std::fill(z.begin(), z.begin() + d, 0.0f);  // as good as no length at all
      const std::vector<float> gains = {1.0f, 0.5f, 0.25f}, mean = random_floats(static_cast<size_t>(d), 2);
      const std::vector<float> deviation(static_cast<size_t>(d), 0.7f);
      const OnDevice<float> device_z(z), device_gains(gains), device_mean(mean), device_std(deviation), device_pooled(static_cast<size_t>(kTokens * d));
      const OnDevice<RowRange> range(std::vector<RowRange>{{0, rows}});
      const TestStream stream;
      normalise_rows(range.get(), rows, device_mean.get(), device_std.get(), d, device_z.get(), stream);
      for (size_t i = 0; i < z.size(); ++i) z[i] = (z[i] - mean[i % static_cast<size_t>(d)]) / 0.7f;
      CHECK_NEAR(furthest(device_z.read(), z), 0.0f, 1e-6f);
      z = device_z.read();
      quantise_rows(range.get(), rows + 2, device_gains.get(), kLevels, d, device_z.get(), stream);
      for (int r = 0; r < rows; ++r) quantise(z.data() + r * d, gains.data(), kLevels, d);
      CHECK_NEAR(furthest(device_z.read(), z), 0.0f, 1e-6f);
      pool_rows(range.get(), kTokens, d, device_z.get(), device_pooled.get(), stream);
      CHECK_CUDA(cudaGetLastError());
      for (int j = 0; j < kTokens; ++j) {
        const int begin = j * rows / kTokens, end = ((j + 1) * rows + kTokens - 1) / kTokens;
        for (int i = 0; i < d; ++i) {
          double sum = 0.0;
          for (int r = begin; r < end; ++r) sum += double{z[static_cast<size_t>(r * d + i)]};
          pooled.push_back(static_cast<float>(sum / (end - begin)));
        }
      }
      CHECK_NEAR(furthest(device_pooled.read(), pooled), 0.0f, 2e-6f);
    }
  }
}

}  // namespace

int main() {
#if !defined(UNILS_CUDA_ON_HOST)
  unils_sentence detail = {};
  if (unils_backend_plugin(UNILS_BACKEND_VERSION)->score(&detail) == 0) {
    std::printf("skipped: %s\n", detail.text);
    return 77;
  }
#endif
  test_16_bit_formats_round_to_the_nearest_even();
  test_linear_layers_of_every_size_and_kernel();
  test_linear_layers_of_thousands_of_rows();
  test_log_mel_rows_equal_those_of_the_host();
  test_causal_convolutions_at_every_wrap_position();
  test_attention_at_every_wrap_position();
  test_attention_of_thousands_of_sessions();
  test_the_depth_head_draws_the_bits_that_the_host_draws();
  test_tokens_begin_from_the_bits_of_the_frame_before();
  test_style_rows_are_quantised_and_pooled();
  return check::result();
}
