// Config: model.json of a bundle, checked. Every size is bounded here, before anything is allocated from it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"
#include "model/published_config.h"
#include "unils/backend.h"

namespace unils {

struct BundleFile {
  std::string name;    // a plain file name inside the bundle
  std::string sha256;  // 64 lower-case hex digits
};

struct Config {
  std::string family;                 // "stream" or "published"
  std::string rig;                    // "arkit" or "flame"
  std::vector<std::string> channels;  // D names, unique
  int sample_rate = 0;                // Hz
  int hop_samples = 0;
  int frame_rate = 0;  // frames/s

  // Family "stream".
  // Log-mel front end; log_floor is the smallest energy before the logarithm.
  int mels = 0, window_samples = 0, step_samples = 0, fft_size = 0;
  double low_hz = 0.0, high_hz = 0.0, log_floor = 0.0;

  unils_features features() const {
    return {sample_rate, hop_samples, window_samples, step_samples, fft_size, mels, low_hz, high_hz, log_floor};
  }

  unils_stream_sizes sizes = {};
  std::vector<float> gains;  // (levels)

  // Family "published": its sizes.
  PublishedConfig published;

  // The graphs, in the order of PublishedConfig::kGraphs or of kStreamGraphs, and what lies beside them. A bundle of
  // family "stream" need not have any.
  static constexpr const char* kStreamGraphs[] = {"encode", "step", "decode"};
  std::vector<BundleFile> graphs, graph_data;
  int64_t parameters = 0;

  float default_temperature = 1.0f, default_top_p = 1.0f, default_cfg_scale = 1.0f;
  int default_look_ahead_self = 0, default_look_ahead_other = 0;  // frames

  BundleFile weights;

  // UNILS_ERROR_BUNDLE with the first thing that is missing, of the wrong kind or out of bounds.
  static Status parse(const std::string& json, Config* config);
};

}  // namespace unils
