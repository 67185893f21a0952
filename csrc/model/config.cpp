#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "model/json_section.h"

namespace unils {
namespace {

constexpr int kMaxLookAhead = 16;
constexpr int kMaxWidth = 4096;
constexpr int kMaxDepth = 64;
constexpr int kMaxKernel = 64;
constexpr int kMaxExpansion = 8;
constexpr int kMaxWindow = 4096;

Status parse_identity(const JsonSection& root, Config* config) {
  std::string format;
  int format_version = 0;
  UNILS_RETURN_IF_ERROR(root.string("format", 64, &format));
  if (format != "unils-bundle") return wrong_key("format", "\"unils-bundle\"");
  UNILS_RETURN_IF_ERROR(root.integer("format_version", 1, 1, &format_version));
  UNILS_RETURN_IF_ERROR(root.string("family", 64, &config->family));
  if (config->family != "stream" && config->family != "published") {
    return wrong_key("family", "\"stream\" or \"published\", the families that this library runs");
  }
  UNILS_RETURN_IF_ERROR(root.string("rig", 64, &config->rig));
  if (config->rig != "arkit" && config->rig != "flame") return wrong_key("rig", "\"arkit\" or \"flame\"");

  const std::vector<Json>* names = nullptr;
  UNILS_RETURN_IF_ERROR(root.array("channels", 1, 1024, &names));
  for (const Json& name : *names) {
    if (name.string().empty() || name.string().size() > 64 || name.string().find('\0') != std::string::npos) {
      return wrong_key("channels", "names of 1 to 64 bytes");
    }
    config->channels.push_back(name.string());
  }
  std::vector<std::string> sorted = config->channels;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
    return wrong_key("channels", "names without repetition");
  config->sizes.channels = static_cast<int32_t>(config->channels.size());
  if (config->rig == "arkit" && config->sizes.channels != 55) return wrong_key("channels", "55 names for the rig arkit");
  if (config->rig == "flame" && config->sizes.channels != 108) return wrong_key("channels", "108 names for the rig flame");
  return Status();
}

// Rates and front end are fixed by docs/stream-model.md, so these are checks more than settings.
Status parse_rates(const JsonSection& root, Config* config) {
  UNILS_RETURN_IF_ERROR(root.integer("sample_rate", 16000, 16000, &config->sample_rate));
  UNILS_RETURN_IF_ERROR(root.integer("hop_samples", 640, 640, &config->hop_samples));
  return root.integer("frame_rate", 25, 25, &config->frame_rate);
}

Status parse_features(const JsonSection& root, Config* config) {
  JsonSection features;
  UNILS_RETURN_IF_ERROR(root.section("features", &features));
  UNILS_RETURN_IF_ERROR(features.integer("mels", 64, 64, &config->mels));
  UNILS_RETURN_IF_ERROR(features.integer("window_samples", 400, 400, &config->window_samples));
  UNILS_RETURN_IF_ERROR(features.integer("step_samples", 160, 160, &config->step_samples));
  UNILS_RETURN_IF_ERROR(features.integer("fft_size", 512, 512, &config->fft_size));
  UNILS_RETURN_IF_ERROR(features.number("low_hz", 60.0, 60.0, &config->low_hz));
  UNILS_RETURN_IF_ERROR(features.number("high_hz", 7600.0, 7600.0, &config->high_hz));
  UNILS_RETURN_IF_ERROR(features.number("floor", 1e-5, 1e-5, &config->log_floor));
  config->sizes.mels = config->mels;
  config->sizes.row_values = config->mels * (config->hop_samples / config->step_samples);

  JsonSection look_ahead;
  UNILS_RETURN_IF_ERROR(root.section("look_ahead", &look_ahead));
  UNILS_RETURN_IF_ERROR(look_ahead.range_from_zero("self", kMaxLookAhead, &config->sizes.look_ahead_self_max));
  return look_ahead.range_from_zero("other", kMaxLookAhead, &config->sizes.look_ahead_other_max);
}

Status parse_sizes(const JsonSection& root, Config* config) {
  unils_stream_sizes& sizes = config->sizes;
  JsonSection audio, codec, generator;
  UNILS_RETURN_IF_ERROR(root.section("audio_encoder", &audio));
  UNILS_RETURN_IF_ERROR(audio.integer("width", 1, kMaxWidth, &sizes.audio_width));
  UNILS_RETURN_IF_ERROR(audio.integer("depth", 1, kMaxDepth, &sizes.audio_depth));
  UNILS_RETURN_IF_ERROR(audio.integer("kernel", 1, kMaxKernel, &sizes.audio_kernel));
  UNILS_RETURN_IF_ERROR(audio.integer("expansion", 1, kMaxExpansion, &sizes.audio_expansion));

  UNILS_RETURN_IF_ERROR(root.section("codec", &codec));
  UNILS_RETURN_IF_ERROR(codec.integer("width", 1, kMaxWidth, &sizes.codec_width));
  UNILS_RETURN_IF_ERROR(codec.integer("depth", 1, kMaxDepth, &sizes.codec_depth));
  UNILS_RETURN_IF_ERROR(codec.integer("kernel", 1, kMaxKernel, &sizes.codec_kernel));
  UNILS_RETURN_IF_ERROR(codec.integer("expansion", 1, kMaxExpansion, &sizes.codec_expansion));
  UNILS_RETURN_IF_ERROR(codec.integer("bits", 1, 256, &sizes.bits));
  UNILS_RETURN_IF_ERROR(codec.integer("levels", 1, 16, &sizes.levels));
  const std::vector<Json>* gains = nullptr;
  const auto levels = static_cast<size_t>(sizes.levels);
  UNILS_RETURN_IF_ERROR(codec.array("gains", levels, levels, &gains));
  for (const Json& gain : *gains) {
    if (!gain.is(Json::Kind::kNumber) || std::fabs(gain.number()) > 1e6)
      return wrong_key("codec.gains", "numbers within 1e6");
    config->gains.push_back(static_cast<float>(gain.number()));
  }

  UNILS_RETURN_IF_ERROR(root.section("generator", &generator));
  UNILS_RETURN_IF_ERROR(generator.integer("width", 2, kMaxWidth, &sizes.width));
  UNILS_RETURN_IF_ERROR(generator.integer("depth", 1, kMaxDepth, &sizes.depth));
  UNILS_RETURN_IF_ERROR(generator.integer("heads", 1, kMaxWidth, &sizes.heads));
  UNILS_RETURN_IF_ERROR(generator.integer("feed_forward", 1, 4 * kMaxWidth, &sizes.feed_forward));
  UNILS_RETURN_IF_ERROR(generator.integer("window_frames", 1, kMaxWindow, &sizes.window_frames));
  UNILS_RETURN_IF_ERROR(generator.integer("audio_window_frames", 1, kMaxWindow, &sizes.audio_window_frames));
  UNILS_RETURN_IF_ERROR(generator.integer("style_tokens", 1, 256, &sizes.style_tokens));
  UNILS_RETURN_IF_ERROR(generator.integer("head_width", 1, kMaxWidth, &sizes.head_width));
  if (sizes.width % sizes.heads != 0 || sizes.width / sizes.heads % 2 != 0) {
    return wrong_key("generator.heads", "a number that cuts generator.width into heads of even width (RoPE turns pairs)");
  }
  return Status();
}

Status parse_defaults(const JsonSection& root, Config* config) {
  JsonSection defaults, look_ahead;
  UNILS_RETURN_IF_ERROR(root.section("defaults", &defaults));
  UNILS_RETURN_IF_ERROR(defaults.number("temperature", 0.0, 1e3, &config->default_temperature));
  UNILS_RETURN_IF_ERROR(defaults.number("top_p", 1e-6, 1.0, &config->default_top_p));
  UNILS_RETURN_IF_ERROR(defaults.number("cfg_scale", 0.0, 1e3, &config->default_cfg_scale));
  if (config->family == "published") return Status();  // a window has its look-ahead inside
  UNILS_RETURN_IF_ERROR(defaults.section("look_ahead", &look_ahead));
  const unils_stream_sizes& sizes = config->sizes;
  UNILS_RETURN_IF_ERROR(look_ahead.integer("self", 0, sizes.look_ahead_self_max, &config->default_look_ahead_self));
  return look_ahead.integer("other", 0, sizes.look_ahead_other_max, &config->default_look_ahead_other);
}

Status parse_file(const JsonSection& section, BundleFile* file) {
  UNILS_RETURN_IF_ERROR(section.file_name("file", &file->name));
  return section.sha256("sha256", &file->sha256);
}

Status parse_weights(const JsonSection& root, Config* config) {
  JsonSection weights;
  UNILS_RETURN_IF_ERROR(root.section("weights", &weights));
  return parse_file(weights, &config->weights);
}

template <size_t N>
Status parse_graphs(const JsonSection& root, const char* const (&names)[N], Config* config) {
  JsonSection graphs;
  UNILS_RETURN_IF_ERROR(root.section("graphs", &graphs));
  for (const char* name : names) {
    JsonSection graph;
    BundleFile file;
    UNILS_RETURN_IF_ERROR(graphs.section(name, &graph));
    UNILS_RETURN_IF_ERROR(parse_file(graph, &file));
    config->graphs.push_back(file);
    if (!graph.has("data")) continue;
    JsonSection data;
    UNILS_RETURN_IF_ERROR(graph.section("data", &data));
    UNILS_RETURN_IF_ERROR(parse_file(data, &file));
    config->graph_data.push_back(file);
  }
  return Status();
}

}  // namespace

Status Config::parse(const std::string& json, Config* config) {
  Json value;
  const Status parsed = Json::parse(json, &value);
  if (!parsed.ok()) return error(UNILS_ERROR_BUNDLE, "model.json is %s", parsed.sentence().c_str());
  if (!value.is(Json::Kind::kObject)) return error(UNILS_ERROR_BUNDLE, "model.json must hold an object");
  *config = Config();
  const JsonSection root(&value);
  UNILS_RETURN_IF_ERROR(parse_identity(root, config));
  UNILS_RETURN_IF_ERROR(parse_rates(root, config));
  if (config->family == "published") {
    UNILS_RETURN_IF_ERROR(PublishedConfig::parse(root, static_cast<int>(config->channels.size()), &config->published));
    UNILS_RETURN_IF_ERROR(root.integer("parameters", 1, int64_t{1} << 40, &config->parameters));
    UNILS_RETURN_IF_ERROR(parse_graphs(root, PublishedConfig::kGraphs, config));
  } else {
    UNILS_RETURN_IF_ERROR(parse_features(root, config));
    UNILS_RETURN_IF_ERROR(parse_sizes(root, config));
    if (root.has("graphs")) UNILS_RETURN_IF_ERROR(parse_graphs(root, Config::kStreamGraphs, config));
  }
  UNILS_RETURN_IF_ERROR(parse_defaults(root, config));
  return parse_weights(root, config);
}

}  // namespace unils
