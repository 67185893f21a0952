#include "features/framer.h"

#include <algorithm>

#include "core/ring.h"

namespace unils {
namespace {

constexpr RingIndex kRows(Framer::kKeptRows);

}  // namespace

Status Framer::check(const LogMelConfig& config, int hop_samples) {
  UNILS_RETURN_IF_ERROR(LogMel::check(config));
  if (hop_samples % config.step_samples != 0 || hop_samples < config.window_samples - config.step_samples) {
    return error(UNILS_ERROR_BUNDLE,
                 "the bundle's hop of %d samples must be a multiple of the features' step of %d and no shorter than "
                 "window minus step, %d",
                 hop_samples, config.step_samples, config.window_samples - config.step_samples);
  }
  return Status();
}

Framer::Framer(const LogMelConfig& config, int hop_samples)
    : log_mel_(config),
      hop_samples_(hop_samples),
      steps_(hop_samples / config.step_samples),
      history_(config.window_samples - config.step_samples) {}

// line: the history, then the hop.
void Framer::row(float* state, float* line, double* scratch, int64_t row, const float* hop, float* values) const {
  if (row == 0) {
    std::fill(line, line + history_, 0.0f);
  } else {
    const float* before = state + kRows.slot(row - 1) * history_;
    std::copy(before, before + history_, line);
  }
  std::copy(hop, hop + hop_samples_, line + history_);
  const LogMelConfig& config = log_mel_.config();
  for (int step = 0; step < steps_; ++step) {
    log_mel_.window(line + step * config.step_samples, values + step * config.mels, scratch);
  }
  std::copy(line + hop_samples_, line + hop_samples_ + history_, state + kRows.slot(row) * history_);
}

}  // namespace unils
