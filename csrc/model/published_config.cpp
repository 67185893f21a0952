#include "model/published_config.h"

#include <numeric>
#include <string>

#include "model/json_section.h"

namespace unils {
namespace {

constexpr int kMaxWidth = 4096;
constexpr int kMaxDepth = 64;
// What a session holds between the graphs of one window is bounded before anything is allocated.
constexpr int64_t kMaxCacheFloats = int64_t{1} << 27;

Status parse_scales(const JsonSection& codec, PublishedConfig* config) {
  const std::vector<Json>* scales = nullptr;
  UNILS_RETURN_IF_ERROR(codec.array("scales", 1, 32, &scales));
  int64_t last = 0;
  for (const Json& scale : *scales) {
    int64_t tokens = 0;
    if (!scale.integer(last + 1, config->window_frames, &tokens)) break;
    config->scales.push_back(static_cast<int>(tokens));
    last = tokens;
  }
  if (config->scales.size() != scales->size() || last != config->window_frames) {
    return wrong_key("codec.scales", "numbers of tokens that rise and end with window_frames");
  }
  return Status();
}

}  // namespace

int PublishedConfig::tokens() const { return std::accumulate(scales.begin(), scales.end(), 0); }

Status PublishedConfig::parse(const JsonSection& root, int channels, PublishedConfig* config) {
  config->channels = channels;
  UNILS_RETURN_IF_ERROR(root.integer("window_frames", 1, kMaxWindowFrames, &config->window_frames));

  JsonSection audio, codec, generator;
  UNILS_RETURN_IF_ERROR(root.section("audio_encoder", &audio));
  UNILS_RETURN_IF_ERROR(audio.integer("rows", 1, 4096, &config->audio_rows));
  UNILS_RETURN_IF_ERROR(audio.integer("width", 1, kMaxWidth, &config->audio_width));

  UNILS_RETURN_IF_ERROR(root.section("codec", &codec));
  UNILS_RETURN_IF_ERROR(codec.integer("bits", 1, 256, &config->bits));
  UNILS_RETURN_IF_ERROR(parse_scales(codec, config));

  UNILS_RETURN_IF_ERROR(root.section("generator", &generator));
  UNILS_RETURN_IF_ERROR(generator.integer("width", 2, kMaxWidth, &config->width));
  UNILS_RETURN_IF_ERROR(generator.integer("heads", 1, kMaxWidth, &config->heads));
  UNILS_RETURN_IF_ERROR(generator.integer("depth", 1, kMaxDepth, &config->depth));
  if (config->width % config->heads != 0 || config->head_width() % 2 != 0) {
    return wrong_key("generator.heads",
                     "a number that cuts generator.width into heads of even width (RoPE turns pairs)");
  }
  std::string cross_attention;
  UNILS_RETURN_IF_ERROR(generator.string("cross_attention", 16, &cross_attention));
  if (cross_attention != "separate" && cross_attention != "mixed") {
    return wrong_key("generator.cross_attention", "\"separate\" or \"mixed\"");
  }
  config->contexts = cross_attention == "mixed" ? 1 : 2;

  const int64_t positions = config->prefix() + config->tokens();
  if (positions * config->token_cache_floats(PublishedConfig::kMaxRows) > kMaxCacheFloats ||
      config->audio_cache_floats(PublishedConfig::kMaxRows) > kMaxCacheFloats) {
    return error(UNILS_ERROR_BUNDLE,
                 "model.json: the sizes of the generator ask for more than %lld values of cache a session",
                 static_cast<long long>(kMaxCacheFloats));
  }
  return Status();
}

}  // namespace unils
