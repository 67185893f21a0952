#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "model/json.h"

namespace unils {
namespace {

Status wrong(const std::string& key, const char* wanted) {
  return error(UNILS_ERROR_BUNDLE, "model.json: \"%s\" must be %s", key.c_str(), wanted);
}

// One object of model.json; its name is only for sentences.
class Section {
 public:
  static Status open(const Json& parent, const std::string& path, const char* key, Section* section) {
    section->path_ = path + key + ".";
    section->json_ = parent.find(key);
    if (section->json_ != nullptr && section->json_->is(Json::Kind::kObject)) return Status();
    return wrong(path + key, "an object");
  }
  explicit Section(const Json* json = nullptr) : json_(json) {}
  Status section(const char* key, Section* inner) const { return open(*json_, path_, key, inner); }

  template <typename T>
  Status integer(const char* key, int64_t lowest, int64_t highest, T* value) const {
    const Json* json = json_->find(key);
    int64_t whole = 0;
    if (json == nullptr || !json->integer(lowest, highest, &whole)) {
      const std::string wanted = "a whole number from " + std::to_string(lowest) + " to " + std::to_string(highest);
      return wrong(path_ + key, wanted.c_str());
    }
    *value = static_cast<T>(whole);
    return Status();
  }
  template <typename T>
  Status number(const char* key, double lowest, double highest, T* value) const {
    const Json* json = json_->find(key);
    if (json == nullptr || !json->is(Json::Kind::kNumber) || json->number() < lowest || json->number() > highest) {
      char wanted[96];
      std::snprintf(wanted, sizeof wanted, "a number from %g to %g", lowest, highest);
      return wrong(path_ + key, wanted);
    }
    *value = static_cast<T>(json->number());
    return Status();
  }
  Status string(const char* key, size_t longest, std::string* value) const {
    const Json* json = json_->find(key);
    if (json == nullptr || !json->is(Json::Kind::kString) || json->string().empty() ||
        json->string().size() > longest || json->string().find('\0') != std::string::npos) {
      const std::string wanted = "a text of 1 to " + std::to_string(longest) + " bytes";
      return wrong(path_ + key, wanted.c_str());
    }
    *value = json->string();
    return Status();
  }
  // [0, max]
  Status range_from_zero(const char* key, int64_t highest, int32_t* max) const {
    const Json* json = json_->find(key);
    int64_t zero = 0, last = 0;
    if (json == nullptr || json->array().size() != 2 || !json->array()[0].integer(0, 0, &zero) ||
        !json->array()[1].integer(0, highest, &last)) {
      const std::string wanted = "[0, n] with n from 0 to " + std::to_string(highest);
      return wrong(path_ + key, wanted.c_str());
    }
    *max = static_cast<int32_t>(last);
    return Status();
  }
  Status array(const char* key, size_t fewest, size_t most, const std::vector<Json>** value) const {
    const Json* json = json_->find(key);
    if (json == nullptr || !json->is(Json::Kind::kArray) || json->array().size() < fewest ||
        json->array().size() > most) {
      const std::string wanted = "a list of " + std::to_string(fewest) + " to " + std::to_string(most) + " values";
      return wrong(path_ + key, wanted.c_str());
    }
    *value = &json->array();
    return Status();
  }

 private:
  const Json* json_;
  std::string path_;
};

constexpr int kMaxLookAhead = 16;
constexpr int kMaxWidth = 4096;
constexpr int kMaxDepth = 64;
constexpr int kMaxKernel = 64;
constexpr int kMaxExpansion = 8;
constexpr int kMaxWindow = 4096;

Status parse_identity(const Section& root, Config* config) {
  std::string format;
  int format_version = 0;
  UNILS_RETURN_IF_ERROR(root.string("format", 64, &format));
  if (format != "unils-bundle") return wrong("format", "\"unils-bundle\"");
  UNILS_RETURN_IF_ERROR(root.integer("format_version", 1, 1, &format_version));
  UNILS_RETURN_IF_ERROR(root.string("family", 64, &config->family));
  if (config->family != "stream") return wrong("family", "\"stream\", the family that this library runs");
  UNILS_RETURN_IF_ERROR(root.string("rig", 64, &config->rig));
  if (config->rig != "arkit" && config->rig != "flame") return wrong("rig", "\"arkit\" or \"flame\"");

  const std::vector<Json>* names = nullptr;
  UNILS_RETURN_IF_ERROR(root.array("channels", 1, 1024, &names));
  for (const Json& name : *names) {
    if (name.string().empty() || name.string().size() > 64 || name.string().find('\0') != std::string::npos) {
      return wrong("channels", "names of 1 to 64 bytes");
    }
    config->channels.push_back(name.string());
  }
  std::vector<std::string> sorted = config->channels;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
    return wrong("channels", "names without repetition");
  config->sizes.channels = static_cast<int32_t>(config->channels.size());
  if (config->rig == "arkit" && config->sizes.channels != 55) return wrong("channels", "55 names for the rig arkit");
  if (config->rig == "flame" && config->sizes.channels != 108) return wrong("channels", "108 names for the rig flame");
  return Status();
}

// The front end is fixed by docs/stream-model.md, so these are checks more than settings.
Status parse_rates(const Section& root, Config* config) {
  UNILS_RETURN_IF_ERROR(root.integer("sample_rate", 16000, 16000, &config->sample_rate));
  UNILS_RETURN_IF_ERROR(root.integer("hop_samples", 640, 640, &config->hop_samples));
  UNILS_RETURN_IF_ERROR(root.integer("frame_rate", 25, 25, &config->frame_rate));
  Section features;
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

  Section look_ahead;
  UNILS_RETURN_IF_ERROR(root.section("look_ahead", &look_ahead));
  UNILS_RETURN_IF_ERROR(look_ahead.range_from_zero("self", kMaxLookAhead, &config->sizes.look_ahead_self_max));
  return look_ahead.range_from_zero("other", kMaxLookAhead, &config->sizes.look_ahead_other_max);
}

Status parse_sizes(const Section& root, Config* config) {
  unils_stream_sizes& sizes = config->sizes;
  Section audio, codec, generator;
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
      return wrong("codec.gains", "numbers within 1e6");
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
    return wrong("generator.heads", "a number that cuts generator.width into heads of even width (RoPE turns pairs)");
  }
  return Status();
}

Status parse_defaults(const Section& root, Config* config) {
  Section defaults, look_ahead;
  UNILS_RETURN_IF_ERROR(root.section("defaults", &defaults));
  UNILS_RETURN_IF_ERROR(defaults.number("temperature", 0.0, 1e3, &config->default_temperature));
  UNILS_RETURN_IF_ERROR(defaults.number("top_p", 1e-6, 1.0, &config->default_top_p));
  UNILS_RETURN_IF_ERROR(defaults.number("cfg_scale", 0.0, 1e3, &config->default_cfg_scale));
  UNILS_RETURN_IF_ERROR(defaults.section("look_ahead", &look_ahead));
  const unils_stream_sizes& sizes = config->sizes;
  UNILS_RETURN_IF_ERROR(look_ahead.integer("self", 0, sizes.look_ahead_self_max, &config->default_look_ahead_self));
  return look_ahead.integer("other", 0, sizes.look_ahead_other_max, &config->default_look_ahead_other);
}

Status parse_weights(const Section& root, Config* config) {
  Section weights;
  UNILS_RETURN_IF_ERROR(root.section("weights", &weights));
  UNILS_RETURN_IF_ERROR(weights.string("file", 128, &config->weights_file));
  UNILS_RETURN_IF_ERROR(weights.string("sha256", 64, &config->weights_sha256));
  const std::string& name = config->weights_file;
  if (name.find_first_of("/\\:") != std::string::npos || name == "." || name == "..") {
    return wrong("weights.file", "a plain file name inside the bundle");
  }
  const std::string& digest = config->weights_sha256;
  if (digest.size() != 64 || digest.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return wrong("weights.sha256", "64 lower-case hex digits");
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
  const Section root(&value);
  UNILS_RETURN_IF_ERROR(parse_identity(root, config));
  UNILS_RETURN_IF_ERROR(parse_rates(root, config));
  UNILS_RETURN_IF_ERROR(parse_sizes(root, config));
  UNILS_RETURN_IF_ERROR(parse_defaults(root, config));
  return parse_weights(root, config);
}

}  // namespace unils
