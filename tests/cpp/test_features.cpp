// Log-mel rows against the same definition written out in double precision with a direct Fourier sum.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "check.h"
#include "features/framer.h"
#include "features/log_mel.h"
#include "features/real_fft.h"

namespace {

using unils::Framer;
using unils::LogMel;
using unils::LogMelConfig;
using unils::RealFft;

constexpr double kPi = 3.14159265358979323846;

std::vector<double> direct_power(const std::vector<double>& signal) {
  const size_t size = signal.size();
  std::vector<double> power;
  for (size_t k = 0; k <= size / 2; ++k) {
    double re = 0.0, im = 0.0;
    for (size_t n = 0; n < size; ++n) {
      const double angle = -2.0 * kPi * static_cast<double>(k * n % size) / static_cast<double>(size);
      re += signal[n] * std::cos(angle);
      im += signal[n] * std::sin(angle);
    }
    power.push_back(re * re + im * im);
  }
  return power;
}

// docs/stream-model.md, "Log-mel rows", word by word. samples: the whole track from sample 0.
std::vector<double> direct_step(const std::vector<float>& samples, int64_t step) {
  std::vector<double> spectrum(257);
  for (int k = 0; k <= 256; ++k) {
    double re = 0.0, im = 0.0;
    for (int n = 0; n < 400; ++n) {
      const int64_t at = 160 * (step + 1) - 400 + n;
      if (at < 0) continue;
      const double value = samples[static_cast<size_t>(at)] * (0.5 - 0.5 * std::cos(2.0 * kPi * n / 400));
      re += value * std::cos(2.0 * kPi * k * n / 512);
      im -= value * std::sin(2.0 * kPi * k * n / 512);
    }
    spectrum[static_cast<size_t>(k)] = re * re + im * im;
  }
  const auto mel = [](double hz) { return 2595.0 * std::log10(1.0 + hz / 700.0); };
  const auto hz = [](double mels) { return 700.0 * (std::pow(10.0, mels / 2595.0) - 1.0); };
  std::vector<double> energies;
  for (int m = 0; m < 64; ++m) {
    const double width = (mel(7600.0) - mel(60.0)) / 65.0;
    const double left = hz(mel(60.0) + width * m), peak = hz(mel(60.0) + width * (m + 1)),
                 right = hz(mel(60.0) + width * (m + 2));
    double energy = 0.0;
    for (int k = 0; k <= 256; ++k) {
      const double f = k * 16000.0 / 512.0;
      energy += std::max(0.0, std::min((f - left) / (peak - left), (right - f) / (right - peak))) *
                spectrum[static_cast<size_t>(k)];
    }
    energies.push_back(std::log(std::max(energy, 1e-5)));
  }
  return energies;
}

std::vector<float> noise(size_t count, float gain, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, gain);
  std::vector<float> samples(count);
  for (float& sample : samples) sample = std::clamp(normal(random), -1.0f, 1.0f);
  return samples;
}

std::vector<float> rows_of(const std::vector<float>& samples) {
  const Framer framer(LogMelConfig(), 640);
  std::vector<float> state(framer.state_floats()), line(framer.scratch_floats()), rows;
  std::vector<double> scratch(framer.scratch_doubles());
  std::vector<float> row(static_cast<size_t>(framer.row_values()));
  for (size_t t = 0; (t + 1) * 640 <= samples.size(); ++t) {
    framer.row(state.data(), line.data(), scratch.data(), static_cast<int64_t>(t), samples.data() + t * 640,
               row.data());
    rows.insert(rows.end(), row.begin(), row.end());
  }
  return rows;
}

void test_power_spectrum_equals_a_direct_sum() {
  for (const int size : {4, 8, 64, 512, 2048}) {
    const RealFft fft(size);
    const auto samples = noise(static_cast<size_t>(size), 0.3f, 1);
    const std::vector<double> signal(samples.begin(), samples.end());
    std::vector<double> power(static_cast<size_t>(fft.bins())), scratch(static_cast<size_t>(fft.scratch_doubles()));
    fft.power(signal.data(), power.data(), scratch.data());
    const auto expected = direct_power(signal);
    const double largest = *std::max_element(expected.begin(), expected.end());
    for (size_t k = 0; k < expected.size(); ++k) CHECK_NEAR(power[k], expected[k], 1e-13 * largest);
  }
}

void test_rows_equal_the_double_precision_reference() {
  double worst = 0.0;
  std::vector<std::vector<float>> signals = {noise(640 * 6, 0.2f, 2), noise(640 * 6, 1e-3f, 3),
                                             std::vector<float>(640 * 6, 0.0f), std::vector<float>(640 * 6, 1.0f),
                                             noise(640 * 6, 5.0f, 4)};
  std::vector<float> sine(640 * 6), impulse(640 * 6, 0.0f), denormal(640 * 6, 1e-12f);
  for (size_t i = 0; i < sine.size(); ++i)
    sine[i] = static_cast<float>(std::sin(2.0 * kPi * 440.0 * static_cast<double>(i) / 16000.0));
  impulse[1000] = 1.0f;
  signals.insert(signals.end(), {sine, impulse, denormal});
  for (const auto& signal : signals) {
    const auto rows = rows_of(signal);
    for (int64_t step = 0; step < 24; ++step) {
      const auto expected = direct_step(signal, step);
      for (size_t m = 0; m < 64; ++m)
        worst = std::max(worst, std::fabs(rows[static_cast<size_t>(step) * 64 + m] - expected[m]));
    }
  }
  std::printf("log-mel: largest difference from the double-precision reference %.2e\n", worst);
  CHECK(worst < 2e-6);
}

void test_an_impulse_is_heard_in_the_row_that_holds_it_and_not_before() {
  const auto silence = rows_of(std::vector<float>(640 * 8, 0.0f));
  for (const int at : {0, 639, 640, 1000, 1279, 3 * 640, 4 * 640 - 1}) {
    std::vector<float> samples(640 * 8, 0.0f);
    samples[static_cast<size_t>(at)] = 1.0f;
    const auto rows = rows_of(samples);
    for (int row = 0; row < 8; ++row) {
      const bool same =
          std::equal(rows.begin() + row * 256, rows.begin() + (row + 1) * 256, silence.begin() + row * 256);
      if (row < at / 640 || row > (at + 240) / 640) CHECK(same);
      // The first sample of a window has weight 0, so the last 160 samples of a hop are weak, not silent.
      if (row == at / 640 && at % 640 < 480) CHECK(!same);
    }
  }
}

void test_rows_can_be_made_again_after_a_rewind() {
  const Framer framer(LogMelConfig(), 640);
  const auto samples = noise(640 * 80, 0.2f, 9);
  const auto expected = rows_of(samples);
  std::vector<float> state(framer.state_floats()), line(framer.scratch_floats()), row(256), wrong(640, 0.7f);
  std::vector<double> scratch(framer.scratch_doubles());
  const auto make = [&](int64_t t, const float* hop) {
    framer.row(state.data(), line.data(), scratch.data(), t, hop, row.data());
  };
  for (int64_t t = 0; t < 80; ++t) {
    for (int64_t ahead = t; ahead < t + 17; ++ahead) make(ahead, wrong.data());
    make(t, samples.data() + t * 640);
    CHECK(std::equal(row.begin(), row.end(), expected.begin() + t * 256));
  }
}

void test_configurations_that_cannot_be_meant_are_refused() {
  const auto refused = [](auto change) {
    LogMelConfig config;
    change(config);
    CHECK_ERROR(Framer::check(config, 640), UNILS_ERROR_BUNDLE, "the bundle's");
  };
  CHECK_OK(Framer::check(LogMelConfig(), 640));
  refused([](LogMelConfig& c) { c.fft_size = 500; });
  refused([](LogMelConfig& c) { c.fft_size = 1 << 30; });
  refused([](LogMelConfig& c) { c.fft_size = 256; });
  refused([](LogMelConfig& c) { c.window_samples = 0; });
  refused([](LogMelConfig& c) { c.step_samples = 0; });
  refused([](LogMelConfig& c) { c.step_samples = 161; });
  refused([](LogMelConfig& c) { c.step_samples = 401; });
  refused([](LogMelConfig& c) { c.mels = 0; });
  refused([](LogMelConfig& c) { c.mels = 100000; });
  refused([](LogMelConfig& c) { c.high_hz = 8001; });
  refused([](LogMelConfig& c) { c.high_hz = std::nan(""); });
  refused([](LogMelConfig& c) { c.low_hz = 7600; });
  refused([](LogMelConfig& c) { c.floor = 0; });
}

}  // namespace

int main() {
  test_power_spectrum_equals_a_direct_sum();
  test_rows_equal_the_double_precision_reference();
  test_an_impulse_is_heard_in_the_row_that_holds_it_and_not_before();
  test_rows_can_be_made_again_after_a_rewind();
  test_configurations_that_cannot_be_meant_are_refused();
  return check::result();
}
