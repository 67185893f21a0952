// PublishedConfig: sizes of a model of family "published" (docs/published.md), read from model.json and bounded.
#pragma once
#include <cstdint>
#include <vector>

#include "core/status.h"

namespace unils {

class JsonSection;

struct PublishedConfig {
  // Names of the graphs; the enumerators index them.
  enum Graph { kAudioEncoder, kPrefill, kStep, kCodecEncode, kCodecDecode, kGraphCount };
  static constexpr const char* kGraphs[kGraphCount] = {"audio_encoder", "prefill", "step", "codec_encode",
                                                       "codec_decode"};
  static constexpr int kMaxWindowFrames = 400;
  static constexpr int kMaxRows = 4;  // of a batch: two faces, with guidance

  int channels = 0;       // D
  int window_frames = 0;  // F; style and previous window have as many
  int bits = 0;           // d, of a token
  std::vector<int> scales;  // tokens of each level, rising, the last one F
  int width = 0, heads = 0, depth = 0;      // of the generator; K = depth
  int audio_rows = 0, audio_width = 0;      // J, A: features of one window of one track
  int contexts = 0;                         // C: 2, or 1 where one cross-attention hears both tracks

  int tokens() const;  // N, of all scales
  int look_ahead_max() const { return window_frames / 2; }  // in rolling mode
  int prefix() const { return 2 * window_frames; }
  int head_width() const { return width / heads; }
  int context_rows() const { return contexts == 1 ? 2 * audio_rows : audio_rows; }

  // Floats of one token's keys and values, (K, 2, rows, heads, head_width), and of all audio's, (K, C, 2, rows, heads,
  // context_rows, head_width); rows: one a face, and another with guidance.
  int64_t token_cache_floats(int rows) const { return int64_t{2} * depth * rows * width; }
  int64_t audio_cache_floats(int rows) const { return int64_t{2} * depth * contexts * rows * context_rows() * width; }

  // UNILS_ERROR_BUNDLE with the first thing that is missing, of the wrong kind or out of bounds.
  static Status parse(const JsonSection& root, int channels, PublishedConfig* config);
};

}  // namespace unils
