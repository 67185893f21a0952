#include "features/log_mel.h"

#include <algorithm>
#include <cmath>

namespace unils {
namespace {

double hz_to_mel(double hz) { return 2595.0 * std::log10(1.0 + hz / 700.0); }
double mel_to_hz(double mel) { return 700.0 * (std::pow(10.0, mel / 2595.0) - 1.0); }

}  // namespace

Status LogMel::check(const LogMelConfig& config) {
  const bool power_of_two = config.fft_size >= 4 && config.fft_size <= 65536 &&
                            (config.fft_size & (config.fft_size - 1)) == 0;
  if (!power_of_two || config.window_samples < 1 || config.window_samples > config.fft_size ||
      config.step_samples < 1 || config.step_samples > config.window_samples || config.mels < 1 || config.mels > 1024 ||
      !(config.low_hz >= 0.0) || !(config.high_hz > config.low_hz) || !(config.high_hz <= 0.5 * config.sample_rate) ||
      !(config.floor > 0.0) || !(config.floor < 1.0)) {
    return error(UNILS_ERROR_BUNDLE,
                 "the bundle's features cannot be meant: fft_size must be a power of two up to 65536, step_samples <= "
                 "window_samples <= fft_size, 0 <= low_hz < high_hz <= half the sample rate, 0 < floor < 1");
  }
  return Status();
}

LogMel::LogMel(const LogMelConfig& config) : config_(config), fft_(config.fft_size) {
  constexpr double kPi = 3.14159265358979323846;
  for (int i = 0; i < config.window_samples; ++i) {
    hann_.push_back(0.5 - 0.5 * std::cos(2.0 * kPi * i / config.window_samples));
  }
  const double low = hz_to_mel(config.low_hz);
  const double step = (hz_to_mel(config.high_hz) - low) / (config.mels + 1);
  for (int mel = 0; mel < config.mels; ++mel) {
    const double left = mel_to_hz(low + step * mel);
    const double peak = mel_to_hz(low + step * (mel + 1));
    const double right = mel_to_hz(low + step * (mel + 2));
    Filter filter;
    filter.weights = weights_.size();
    for (int bin = 0; bin < fft_.bins(); ++bin) {
      const double hz = static_cast<double>(bin) * config.sample_rate / config.fft_size;
      const double weight = std::min((hz - left) / (peak - left), (right - hz) / (right - peak));
      if (weight <= 0.0) continue;
      if (filter.count == 0) filter.first = bin;
      ++filter.count;
      weights_.push_back(weight);
    }
    filters_.push_back(filter);
  }
}

size_t LogMel::scratch_doubles() const {
  return static_cast<size_t>(config_.fft_size + fft_.bins() + fft_.scratch_doubles());
}

size_t LogMel::bytes() const {
  return fft_.bytes() + (hann_.capacity() + weights_.capacity()) * sizeof(double) +
         filters_.capacity() * sizeof(Filter);
}

void LogMel::window(const float* samples, float* energies, double* scratch) const {
  double* signal = scratch;
  double* power = signal + config_.fft_size;
  for (int i = 0; i < config_.window_samples; ++i) signal[i] = samples[i] * hann_[static_cast<size_t>(i)];
  std::fill(signal + config_.window_samples, signal + config_.fft_size, 0.0);
  fft_.power(signal, power, power + fft_.bins());
  for (int mel = 0; mel < config_.mels; ++mel) {
    const Filter& filter = filters_[static_cast<size_t>(mel)];
    const double* weights = weights_.data() + filter.weights;
    double energy = 0.0;
    for (int i = 0; i < filter.count; ++i) energy += weights[i] * power[filter.first + i];
    energies[mel] = std::log(static_cast<float>(std::max(energy, config_.floor)));
  }
}

}  // namespace unils
