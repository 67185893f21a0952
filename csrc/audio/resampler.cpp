#include "audio/resampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace unils {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr double kStopbandDb = 72.0;      // design value; the sum of all folds stays below -65 dB
constexpr double kStopEdgeHz = 400.0;     // above the smaller Nyquist frequency

double bessel_i0(double x) {
  double term = 1.0, sum = 1.0;
  for (int k = 1; term > 1e-17 * sum; ++k) {
    term *= (x / (2.0 * k)) * (x / (2.0 * k));
    sum += term;
  }
  return sum;
}

// Eight running sums in a fixed order: the compiler can use vectors, and the result does not depend on whether it does.
float dot(const float* a, const float* b, int count) {
  float sums[8] = {};
  for (int i = 0; i < count; i += 8) {
    for (int lane = 0; lane < 8; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

}  // namespace

void Resampler::set_rate(int rate) {
  state_ = State();
  state_.rate = rate;
  build_table();
}

void Resampler::restart() {
  const int64_t rate = state_.rate;
  state_ = State();
  state_.rate = rate;
}

void Resampler::set_state(const State& state) {
  state_ = state;
  if (state_.rate != 0) build_table();
}

bool Resampler::plausible(const State& state) {
  constexpr int64_t kMostSamples = int64_t{1} << 44;
  if (state.rate == 0) return state.consumed == 0 && state.produced == 0;
  if (!supports(state.rate) || state.consumed < 0 || state.consumed > kMostSamples) return false;
  const auto outputs = [&state](int64_t inputs) {
    return std::max<int64_t>(0, (inputs * kOutputRate + state.rate - 1) / state.rate);
  };
  if (state.produced > outputs(state.consumed)) return false;
  if (state.produced < outputs(state.consumed - half_width(state.rate))) return false;
  return std::all_of(state.history, state.history + kMaxTaps, [](float sample) { return std::fabs(sample) <= 1.0f; });
}

void Resampler::build_table() {
  const int rate = this->rate();
  if (rate == table_rate_) return;
  table_rate_ = rate;
  const int divisor = std::gcd(rate, kOutputRate);
  up_ = kOutputRate / divisor;
  down_ = rate / divisor;
  half_ = static_cast<int>(half_width(rate));
  taps_ = (2 * half_ + kLanes - 1) / kLanes * kLanes;
  if (half_ == 0) return;

  const auto rows = static_cast<int64_t>(kTableFloats) / taps_;
  phases_ = std::min(up_, rows - 1);
  // Kaiser's formulas: the transition's width follows from the stop band wanted and the half width.
  const double beta = 0.1102 * (kStopbandDb - 8.7);
  const double transition_hz = (kStopbandDb - 7.95) / (2.285 * 2.0 * kPi) * rate / (2.0 * half_);
  const double cutoff_hz = 0.5 * std::min(rate, kOutputRate) + kStopEdgeHz - 0.5 * transition_hz;
  const double scale = 2.0 * cutoff_hz / rate;
  const double window_scale = 1.0 / bessel_i0(beta);
  const int padding = taps_ - 2 * half_;
  for (int64_t phase = 0; phase <= phases_; ++phase) {
    float* row = table_ + phase * taps_;
    std::fill(row, row + padding, 0.0f);
    const double fraction = static_cast<double>(phase) / static_cast<double>(phases_);
    double values[kMaxTaps];
    double sum = 0.0;
    for (int i = 0; i < 2 * half_; ++i) {
      const double distance = static_cast<double>(i - half_ + 1) - fraction;  // input samples from the output's time
      const double place = distance / half_;
      const double sinc = distance == 0.0 ? 1.0 : std::sin(kPi * scale * distance) / (kPi * scale * distance);
      // Open at the edge, so that the kernel is symmetric at every phase.
      const double window = std::fabs(place) >= 1.0 ? 0.0 : bessel_i0(beta * std::sqrt(1.0 - place * place));
      values[i] = sinc * window * window_scale;
      sum += values[i];
    }
    // Gain one at DC for every phase: a constant comes out as the same constant.
    for (int i = 0; i < 2 * half_; ++i) row[padding + i] = static_cast<float>(values[i] / sum);
  }
}

double Resampler::delay_seconds() const {
  if (half_ == 0 || state_.rate == 0) return 0.0;
  return (half_ + 1.0) / rate() - 1.0 / kOutputRate;
}

int64_t Resampler::spanned() const { return (state_.consumed * up_ + down_ - 1) / down_; }

int64_t Resampler::input_for(int64_t space) const {
  // Outputs n with floor(n down / up) + half < consumed can be made: ceil((consumed - half) up / down) of them.
  return std::max<int64_t>(0, half_ + (state_.produced + space) * down_ / up_ - state_.consumed);
}

int Resampler::process(const float* input, int count, float* output) {
  if (half_ == 0) {
    std::memcpy(output, input, static_cast<size_t>(count) * sizeof(float));
    state_.consumed += count;
    state_.produced += count;
    return count;
  }
  // buffer_: history (kMaxTaps), then the new input; input sample i of this track is buffer_[i - base].
  std::memcpy(buffer_, state_.history, sizeof state_.history);
  std::memcpy(buffer_ + kMaxTaps, input, static_cast<size_t>(count) * sizeof(float));
  const int64_t base = state_.consumed - kMaxTaps;
  state_.consumed += count;
  int64_t position = state_.produced * down_ / up_;
  int64_t remainder = state_.produced * down_ % up_;
  int made = 0;
  for (; position + half_ < state_.consumed; ++made) {
    const float* window = buffer_ + (position + half_ - taps_ + 1 - base);
    if (phases_ == up_) {
      output[made] = dot(table_ + remainder * taps_, window, taps_);
    } else {
      const int64_t scaled = remainder * phases_;
      const float* row = table_ + scaled / up_ * taps_;
      const float weight = static_cast<float>(scaled % up_) / static_cast<float>(up_);
      const float here = dot(row, window, taps_);
      output[made] = here + weight * (dot(row + taps_, window, taps_) - here);
    }
    position += down_ / up_;
    remainder += down_ % up_;
    if (remainder >= up_) {
      remainder -= up_;
      ++position;
    }
  }
  state_.produced += made;
  std::memcpy(state_.history, buffer_ + count, sizeof state_.history);
  return made;
}

int Resampler::flush(float* output) {
  const int64_t wanted = pending();
  if (wanted == 0) return 0;
  const int64_t consumed = state_.consumed;
  const int64_t produced = state_.produced;
  const float silence[kMaxTaps / 2] = {};
  process(silence, half_, output);
  // The silence was no audio: time ends where the input ended.
  state_.consumed = consumed;
  state_.produced = produced + wanted;
  return static_cast<int>(wanted);
}

}  // namespace unils
