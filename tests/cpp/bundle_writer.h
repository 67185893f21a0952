// Writes bundles for tests: random ones that load, and broken ones that must not.
#pragma once
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "model/sha256.h"
#include "model/weights.h"

namespace unils {

// Odd on purpose: no width is a multiple of a vector, heads are narrower than one.
inline unils_stream_sizes tiny_sizes() {
  unils_stream_sizes s = {};
  s.channels = 55, s.mels = 64, s.row_values = 256;
  s.audio_width = 21, s.audio_depth = 2, s.audio_kernel = 3, s.audio_expansion = 2;
  s.codec_width = 19, s.codec_depth = 2, s.codec_kernel = 4, s.codec_expansion = 3;
  s.bits = 7, s.levels = 3;
  s.width = 30, s.depth = 2, s.heads = 3, s.feed_forward = 37, s.head_width = 23;
  s.window_frames = 13, s.audio_window_frames = 9, s.style_tokens = 5;
  s.look_ahead_self_max = 8, s.look_ahead_other_max = 3;
  return s;
}

class BundleWriter {
 public:
  struct Tensor {
    TensorShape shape;
    std::vector<float> values;
    std::string dtype = "F32";
  };

  explicit BundleWriter(const unils_stream_sizes& sizes = tiny_sizes(), unsigned seed = 1) : sizes(sizes) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (const TensorShape& shape : expected_tensors(sizes)) {
      Tensor tensor = {shape, std::vector<float>(static_cast<size_t>(shape.count()))};
      const bool matrix = shape.rank == 2;
      const bool std_or_norm = ends_with(shape.name, "_std") || ends_with(shape.name, "norm.weight");
      const float scale = matrix ? 1.0f / std::sqrt(static_cast<float>(shape.shape[1])) : 0.2f;
      for (float& value : tensor.values) {
        value = normal(random) * scale;
        if (std_or_norm) value = 1.0f + 0.1f * std::tanh(value);
      }
      tensors.push_back(std::move(tensor));
    }
    for (int i = 0; i < sizes.levels; ++i) gains.push_back(std::pow(0.5f, static_cast<float>(i)));
    for (int i = 0; i < sizes.channels; ++i) channel_names.push_back("channel" + std::to_string(i));
  }

  Tensor& tensor(const std::string& name) {
    for (Tensor& tensor : tensors) {
      if (tensor.shape.name == name) return tensor;
    }
    std::abort();
  }

  // The weights file as bytes; `edit` may spoil its JSON header.
  std::string weights(const std::function<void(std::string*)>& edit = {}) const {
    std::string header = "{\"__metadata__\":{\"made_by\":\"a test\"}", data;
    for (const Tensor& tensor : tensors) {
      const std::string begin = std::to_string(data.size());
      data.append(reinterpret_cast<const char*>(tensor.values.data()), tensor.values.size() * sizeof(float));
      header += ",\"" + tensor.shape.name + "\":{\"dtype\":\"" + tensor.dtype + "\",\"shape\":[" +
                std::to_string(tensor.shape.shape[0]);
      if (tensor.shape.rank == 2) header += "," + std::to_string(tensor.shape.shape[1]);
      header += "],\"data_offsets\":[" + begin + "," + std::to_string(data.size()) + "]}";
    }
    header += "}";
    if (edit) edit(&header);
    return with_length(header) + header + data;
  }
  static std::string with_length(const std::string& header) {
    std::string length(8, '\0');
    for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(uint64_t{header.size()} >> (8 * i));
    return length;
  }

  std::string json(const std::string& weights_bytes) const {
    const unils_stream_sizes& s = sizes;
    const auto n = [](int value) { return std::to_string(value); };
    std::string channels, gain_list;
    for (const std::string& name : channel_names) channels += (channels.empty() ? "\"" : ",\"") + name + "\"";
    for (const float gain : gains) gain_list += (gain_list.empty() ? "" : ",") + std::to_string(gain);
    const std::string digest = sha256_text(sha256(weights_bytes.data(), weights_bytes.size()));
    return "{\"format\":\"unils-bundle\",\"format_version\":1,\"family\":\"stream\",\"rig\":\"arkit\",\"channels\":[" +
           channels + "],\"sample_rate\":16000,\"hop_samples\":640,\"frame_rate\":25,\"look_ahead\":{\"self\":[0," +
           n(s.look_ahead_self_max) + "],\"other\":[0," + n(s.look_ahead_other_max) +
           "]},\"features\":{\"mels\":64,\"window_samples\":400,\"step_samples\":160,\"fft_size\":512,\"low_hz\":60.0,"
           "\"high_hz\":7600.0,\"floor\":1e-5},\"audio_encoder\":{\"width\":" +
           n(s.audio_width) + ",\"depth\":" + n(s.audio_depth) + ",\"kernel\":" + n(s.audio_kernel) +
           ",\"expansion\":" + n(s.audio_expansion) + "},\"codec\":{\"width\":" + n(s.codec_width) +
           ",\"depth\":" + n(s.codec_depth) + ",\"kernel\":" + n(s.codec_kernel) +
           ",\"expansion\":" + n(s.codec_expansion) + ",\"bits\":" + n(s.bits) + ",\"levels\":" + n(s.levels) +
           ",\"gains\":[" + gain_list + "]},\"generator\":{\"width\":" + n(s.width) + ",\"depth\":" + n(s.depth) +
           ",\"heads\":" + n(s.heads) + ",\"feed_forward\":" + n(s.feed_forward) +
           ",\"window_frames\":" + n(s.window_frames) + ",\"audio_window_frames\":" + n(s.audio_window_frames) +
           ",\"style_tokens\":" + n(s.style_tokens) + ",\"head_width\":" + n(s.head_width) +
           "},\"defaults\":{\"temperature\":1.0,\"top_p\":0.97,\"cfg_scale\":1.5,\"look_ahead\":{\"self\":1,\"other\":"
           "0}},"
           "\"provenance\":{},\"licence\":\"Apache-2.0\",\"weights\":{\"file\":\"weights.safetensors\",\"sha256\":\"" +
           digest + "\"}}";
  }

  // Writes both files; `edit_json` may spoil model.json.
  void write(const std::string& folder, const std::string& weights_bytes,
             const std::function<void(std::string*)>& edit_json = {}) const {
    std::string text = json(weights_bytes);
    if (edit_json) edit_json(&text);
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/model.json", std::ios::binary) << text;
    std::ofstream(folder + "/weights.safetensors", std::ios::binary) << weights_bytes;
  }
  void write(const std::string& folder) const { write(folder, weights()); }

  unils_stream_sizes sizes;
  std::vector<Tensor> tensors;
  std::vector<float> gains;
  std::vector<std::string> channel_names;

 private:
  static bool ends_with(const std::string& text, const std::string& end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
  }
};

// A folder of its own for one test program, removed at the end.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::string& name)
      : path_(
            (std::filesystem::temp_directory_path() / (name + "_" + std::to_string(std::random_device()()))).string()) {
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Replaces the first `from`, which must be there.
inline void replace(std::string* text, const std::string& from, const std::string& to) {
  const size_t at = text->find(from);
  if (at == std::string::npos) std::abort();
  text->replace(at, from.size(), to);
}

}  // namespace unils
