// LogMel: natural-log mel energies of one window of audio, exactly as docs/stream-model.md defines them: periodic Hann
// window, zero-padded FFT, power spectrum, triangular filters of peak 1 on the HTK mel scale, floor, logarithm.
// Nothing depends on more of the signal than the window.
#pragma once
#include <cstddef>
#include <vector>

#include "core/status.h"
#include "features/real_fft.h"
#include "unils/backend.h"

namespace unils {

struct LogMelConfig {
  int sample_rate = 16000;     // Hz
  int window_samples = 400;
  int step_samples = 160;
  int fft_size = 512;          // a power of two, at least window_samples
  int mels = 64;
  double low_hz = 60.0, high_hz = 7600.0;
  double floor = 1e-5;         // smallest energy before the logarithm

  static LogMelConfig of(const unils_features& features) {
    return {features.sample_rate, features.window_samples, features.step_samples, features.fft_size,
            features.mels,        features.low_hz,         features.high_hz,      features.floor};
  }
};

class LogMel {
 public:
  // UNILS_ERROR_BUNDLE when the numbers cannot be meant.
  static Status check(const LogMelConfig& config);
  explicit LogMel(const LogMelConfig& config);  // a checked config

  const LogMelConfig& config() const { return config_; }
  size_t scratch_doubles() const;
  // samples: (window_samples) in [-1, 1]; energies: (mels); scratch: (scratch_doubles()).
  void window(const float* samples, float* energies, double* scratch) const;
  size_t bytes() const;  // of the tables

  struct Filter {
    int first = 0;   // first bin with weight
    int count = 0;   // bins; 0 for a filter that falls between two bins
    size_t weights = 0;  // offset of its weights
  };
  // For whoever computes the same elsewhere.
  const RealFft& fft() const { return fft_; }
  const std::vector<double>& hann() const { return hann_; }
  const std::vector<Filter>& filters() const { return filters_; }
  const std::vector<double>& weights() const { return weights_; }

 private:
  LogMelConfig config_;
  RealFft fft_;
  std::vector<double> hann_;     // (window_samples)
  std::vector<Filter> filters_;  // (mels)
  std::vector<double> weights_;
};

}  // namespace unils
