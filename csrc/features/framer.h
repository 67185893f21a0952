// Framer: the hops of one track in, one row of log-mel steps a frame out.
//
// Row t holds the steps whose windows end inside hop t, so it needs the hop and the window_samples - step_samples
// before it. Those are kept for each of the last kKeptRows rows, so that a row can be made again after a rewind.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/status.h"
#include "features/log_mel.h"

namespace unils {

class Framer {
 public:
  static constexpr int kKeptRows = UNILS_KEPT_HOPS;

  // UNILS_ERROR_BUNDLE when hops and steps do not fit together.
  static Status check(const LogMelConfig& config, int hop_samples);
  Framer(const LogMelConfig& config, int hop_samples);  // checked

  int row_values() const { return steps_ * log_mel_.config().mels; }  // time-major
  size_t state_floats() const { return static_cast<size_t>(kKeptRows * history_); }  // zeroed: silence before row 0
  size_t scratch_floats() const { return static_cast<size_t>(history_ + hop_samples_); }
  size_t scratch_doubles() const { return log_mel_.scratch_doubles(); }
  // line: (scratch_floats()); scratch: (scratch_doubles()); hop: (hop_samples) of frame `row`; values: (row_values()).
  // Rows come in order, 0, 1, 2, ..., or again after a rewind of less than kKeptRows.
  void row(float* state, float* line, double* scratch, int64_t row, const float* hop, float* values) const;
  size_t bytes() const { return log_mel_.bytes(); }

 private:
  LogMel log_mel_;
  int hop_samples_;
  int steps_;    // a hop
  int history_;  // samples before the hop
};

}  // namespace unils
