// What the audio encoder of family "published" hears of a window of audio (docs/published-model.md, "Audio").
#pragma once
#include <cstdint>

namespace unils {

// samples (count) at 16 kHz -> out (count), of zero mean and unit deviation. False, and out left as it is, when the
// window is silence, which a loudness of its own would make full-scale noise of: no 20 ms of it reach -50 dBFS.
bool normalise_waveform(const float* samples, int64_t count, float* out);

}  // namespace unils
