#include "session/session_spec.h"

#include <algorithm>
#include <utility>

#include "audio/resampler.h"
#include "model/model.h"

namespace unils {

constexpr int kDefaultHopFrames = 5;

Status SessionSpec::from_model(std::shared_ptr<const Model> model, SessionSpec* spec) {
  const Config& config = model->config();
  if (config.sample_rate != Resampler::kOutputRate) {
    return error(UNILS_ERROR_BUNDLE, "the bundle's sample_rate is %d Hz; this library runs models of %d Hz",
                 config.sample_rate, Resampler::kOutputRate);
  }
  spec->rig = config.rig;
  spec->channels = config.channels;
  spec->hop_samples = config.hop_samples;
  spec->frame_rate = config.frame_rate;
  spec->fingerprint = model->fingerprint();
  if (config.family == "published") {
    spec->window_frames = config.published.window_frames;
    spec->look_ahead_self_max = spec->look_ahead_other_max = config.published.look_ahead_max();
    spec->published = std::move(model);
    return Status();
  }
  spec->look_ahead_self_max = config.sizes.look_ahead_self_max;
  spec->look_ahead_other_max = config.sizes.look_ahead_other_max;
  return StepEngine::create(std::move(model), &spec->engine);
}

unils_session_options SessionSpec::default_options(const Model& model) {
  const Config& config = model.config();
  unils_session_options options = {};
  options.struct_size = sizeof options;
  options.clock = UNILS_CLOCK_BOTH;
  options.look_ahead_self = config.default_look_ahead_self;
  options.look_ahead_other = config.default_look_ahead_other;
  options.temperature = config.default_temperature;
  options.top_p = config.default_top_p;
  options.cfg_scale = config.default_cfg_scale;
  options.hop_frames = config.family == "published" ? std::min(kDefaultHopFrames, config.published.window_frames) : 1;
  options.faces = 1;
  return options;
}

}  // namespace unils
