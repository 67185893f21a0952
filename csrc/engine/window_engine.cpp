// Shapes, besides those of docs/published.md: R rows of a batch, the conditional one and with guidance the
// unconditional one; e head width.
#include "engine/window_engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <new>
#include <vector>

#include "core/arena.h"
#include "engine/multi_scale.h"
#include "engine/rope.h"
#include "engine/sampler.h"
#include "engine/waveform.h"
#include "model/model.h"

namespace unils {
namespace {

constexpr int kMaxRows = 2;
constexpr int kHopSamples = 640;

bool all_finite(const float* values, int64_t count) {
  return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

unils_tensor_view view(const char* name, float* data, std::initializer_list<int64_t> shape) {
  unils_tensor_view tensor = {name, UNILS_ELEMENT_FLOAT32, static_cast<int32_t>(shape.size()), {}, data};
  std::copy(shape.begin(), shape.end(), tensor.shape);
  return tensor;
}

struct Header {
  int64_t windows;  // made
};

class GraphWindowEngine final : public WindowEngine {
 public:
  explicit GraphWindowEngine(std::shared_ptr<const Model> model)
      : model_(std::move(model)),
        sizes_(model_->config().published),
        scales_(sizes_.window_frames, sizes_.scales, sizes_.bits),
        silence_(model_->weights().find("audio.silence")),
        mean_(model_->weights().find("codec.motion_mean")),
        std_(model_->weights().find("codec.motion_std")),
        rest_latent_(model_->weights().find("codec.rest_latent")) {
    const auto floats = [](int64_t count) { return static_cast<size_t>(count); };
    header_ = state_.add<Header>(1);
    previous_ = state_.add<float>(floats(motion_floats()));
    style_ = state_.add<float>(floats(latent_floats()));

    waveform_ = scratch_.add<float>(floats(samples()));
    features_ = scratch_.add<float>(floats(2 * kMaxRows * feature_floats()));
    prefix_latents_ = scratch_.add<float>(floats(2 * kMaxRows * latent_floats()));
    audio_ = scratch_.add<float>(floats(sizes_.audio_cache_floats(kMaxRows)));
    cache_ = scratch_.add<float>(floats((sizes_.prefix() + sizes_.tokens()) * sizes_.token_cache_floats(kMaxRows)));
    inputs_ = scratch_.add<float>(floats(kMaxRows * latent_floats()));
    logits_ = scratch_.add<float>(floats(kMaxRows * 2 * latent_floats()));
    odds_ = scratch_.add<float>(floats(latent_floats()));
    bits_ = scratch_.add<float>(floats(int64_t{sizes_.tokens()} * sizes_.bits));
    latent_ = scratch_.add<float>(floats(latent_floats()));
    motion_ = scratch_.add<float>(floats(motion_floats()));

    const Rope rope(sizes_.head_width());
    const auto pairs = static_cast<size_t>(sizes_.head_width() / 2);
    const float* position = model_->weights().find("generator.positions");
    for (const int tokens : sizes_.scales) {
      std::vector<float> table(2 * static_cast<size_t>(tokens) * pairs);
      float* row = table.data();
      for (int token = 0; token < tokens; ++token, row += pairs) {
        rope.row(static_cast<int64_t>(*position++), row, row + static_cast<size_t>(tokens) * pairs);
      }
      tables_.push_back(std::move(table));
    }
  }

  size_t state_bytes() const override { return state_.bytes(); }
  size_t workspace_bytes() const override { return scratch_.bytes(); }
  int channels() const override { return sizes_.channels; }
  int window_frames() const override { return sizes_.window_frames; }

  void reset(void* state) const override {
    std::memset(state, 0, state_.bytes());
    std::copy_n(rest_latent_, latent_floats(), arena_at<float>(state, style_));
  }

  Status set_style(void* state, void* workspace, const float* motion, int64_t frames) const override {
    if (windows(state) != 0) {
      return error(UNILS_ERROR_STATE, "style can only be set before the first frame; reset the session first");
    }
    if (motion == nullptr || frames < sizes_.window_frames) {
      return error(UNILS_ERROR_INVALID_ARGUMENT,
                   "style has %lld frames; this model takes a clip of %d (of a longer one, the first %d)",
                   static_cast<long long>(frames), sizes_.window_frames, sizes_.window_frames);
    }
    if (!all_finite(motion, motion_floats())) {
      return error(UNILS_ERROR_INVALID_ARGUMENT, "style holds a value that is not finite");
    }
    return encode(motion, workspace, arena_at<float>(state, style_));
  }

  int64_t windows(const void* state) const override { return arena_at<Header>(state, header_)->windows; }

  Status step(void* state, void* workspace, const float* self, const float* other, const WindowParams& params,
              float* motion) const override {
    Header* header = arena_at<Header>(state, header_);
    const int rows = params.cfg_scale > 1.0f ? 2 : 1;
    const auto at = [workspace](size_t offset) { return arena_at<float>(workspace, offset); };
    UNILS_RETURN_IF_ERROR(hear(workspace, rows, self, other));
    UNILS_RETURN_IF_ERROR(prefill(state, workspace, rows));

    float* latent = at(latent_);
    std::fill_n(latent, latent_floats(), 0.0f);
    for (int level = 0; level < scales_.levels(); ++level) {
      UNILS_RETURN_IF_ERROR(run_level(workspace, rows, level));
      const int64_t tokens = scales_.tokens(level), begin = scales_.begin(level), d = sizes_.bits;
      guide(at(logits_), tokens * d, rows, params, at(odds_));
      if (!all_finite(at(odds_), tokens * d)) return overflow(header->windows);
      if (params.logits != nullptr) std::copy_n(at(logits_), 2 * tokens * d, params.logits + 2 * begin * d);
      float* bits = at(bits_) + begin * d;
      for (int64_t token = 0; token < tokens; ++token) {
        sample_bits(at(odds_) + token * d, static_cast<int>(d), params.temperature, params.top_p, params.seed,
                    header->windows, static_cast<int>(begin + token), bits + token * d);
      }
      scales_.add(bits, level, latent);
    }
    if (params.bits != nullptr) std::copy_n(at(bits_), int64_t{sizes_.tokens()} * sizes_.bits, params.bits);

    UNILS_RETURN_IF_ERROR(decode(workspace, motion));
    if (!all_finite(motion, motion_floats())) return overflow(header->windows);
    std::copy_n(motion, motion_floats(), arena_at<float>(state, previous_));
    ++header->windows;
    return Status();
  }

 private:
  int64_t samples() const { return int64_t{kHopSamples} * sizes_.window_frames; }
  int64_t latent_floats() const { return int64_t{sizes_.window_frames} * sizes_.bits; }
  int64_t motion_floats() const { return int64_t{sizes_.window_frames} * sizes_.channels; }
  int64_t feature_floats() const { return int64_t{sizes_.audio_rows} * sizes_.audio_width; }

  static Status overflow(int64_t window) {
    return error(UNILS_ERROR_BUNDLE, "window %lld is not finite: the weights of this model overflow; import it again",
                 static_cast<long long>(window));
  }

  template <size_t I, size_t O>
  Status run(PublishedConfig::Graph graph, const unils_tensor_view (&inputs)[I],
             const unils_tensor_view (&outputs)[O]) const {
    return model_->graphs().run(PublishedConfig::kGraphs[graph], inputs, static_cast<int>(I), outputs,
                                static_cast<int>(O));
  }

  // Motion (F, D) in the rig's units -> its quantised latent (F, d).
  Status encode(const float* motion, void* workspace, float* latent) const {
    float* normalised = arena_at<float>(workspace, motion_);
    for (int64_t i = 0; i < motion_floats(); ++i) {
      const int64_t channel = i % sizes_.channels;
      normalised[i] = (motion[i] - mean_[channel]) / std_[channel];
    }
    float* z = arena_at<float>(workspace, odds_);
    const int64_t F = sizes_.window_frames;
    UNILS_RETURN_IF_ERROR(run(PublishedConfig::kCodecEncode, {view("motion", normalised, {1, F, sizes_.channels})},
                              {view("z", z, {1, F, sizes_.bits})}));
    scales_.quantise(z, arena_at<float>(workspace, bits_), latent, arena_at<float>(workspace, logits_));
    return Status();
  }

  // Features of both tracks, (R, J, A) each; the unconditional row hears nothing.
  Status hear(void* workspace, int rows, const float* self, const float* other) const {
    const float* tracks[2] = {self, other};
    float* waveform = arena_at<float>(workspace, waveform_);
    for (int track = 0; track < 2; ++track) {
      float* features = arena_at<float>(workspace, features_) + track * kMaxRows * feature_floats();
      if (normalise_waveform(tracks[track], samples(), waveform)) {
        UNILS_RETURN_IF_ERROR(run(PublishedConfig::kAudioEncoder, {view("waveform", waveform, {1, samples()})},
                                  {view("features", features, {1, sizes_.audio_rows, sizes_.audio_width})}));
      } else {
        std::copy_n(silence_, feature_floats(), features);
      }
      std::fill_n(features + feature_floats(), (rows - 1) * feature_floats(), 0.0f);
    }
    return Status();
  }

  // Keys and values of the style and previous tokens, and of the audio.
  Status prefill(const void* state, void* workspace, int rows) const {
    const int64_t F = sizes_.window_frames, R = rows, d = sizes_.bits, H = sizes_.heads, e = sizes_.head_width();
    float* style = arena_at<float>(workspace, prefix_latents_);
    float* previous = style + kMaxRows * latent_floats();
    std::copy_n(arena_at<float>(state, style_), latent_floats(), style);
    std::copy_n(rest_latent_, latent_floats(), style + latent_floats());
    if (windows(state) == 0) {
      std::copy_n(rest_latent_, latent_floats(), previous);
    } else {
      UNILS_RETURN_IF_ERROR(encode(arena_at<float>(state, previous_), workspace, previous));
    }
    std::copy_n(previous, latent_floats(), previous + latent_floats());
    float* features = arena_at<float>(workspace, features_);
    return run(PublishedConfig::kPrefill,
               {view("style", style, {R, F, d}), view("previous", previous, {R, F, d}),
                view("self_features", features, {R, sizes_.audio_rows, sizes_.audio_width}),
                view("other_features", features + kMaxRows * feature_floats(),
                     {R, sizes_.audio_rows, sizes_.audio_width})},
               {view("cache", arena_at<float>(workspace, cache_), {sizes_.prefix(), sizes_.depth, 2, R, H, e}),
                audio_view(workspace, rows)});
  }

  unils_tensor_view audio_view(void* workspace, int rows) const {
    return view("audio", arena_at<float>(workspace, audio_),
                {sizes_.depth, sizes_.contexts, 2, rows, sizes_.heads, sizes_.context_rows(), sizes_.head_width()});
  }

  // Logits (R, n, d, 2) of a level's tokens; its keys and values go behind those of the levels before.
  Status run_level(void* workspace, int rows, int level) const {
    const int64_t n = scales_.tokens(level), R = rows, d = sizes_.bits, H = sizes_.heads, e = sizes_.head_width();
    const int64_t cached = sizes_.prefix() + scales_.begin(level);
    float* inputs = arena_at<float>(workspace, inputs_);
    float* cache = arena_at<float>(workspace, cache_);
    scales_.down(arena_at<float>(workspace, latent_), level, inputs);
    if (rows == 2) std::copy_n(inputs, n * d, inputs + n * d);
    int64_t number = level;
    unils_tensor_view level_view = {"level", UNILS_ELEMENT_INT64, 1, {1}, &number};
    float* table = const_cast<float*>(tables_[static_cast<size_t>(level)].data());  // an input is only read
    return run(PublishedConfig::kStep,
               {view("latents", inputs, {R, n, d}), level_view, view("rope", table, {2, n, e / 2}),
                view("cache", cache, {cached, sizes_.depth, 2, R, H, e}), audio_view(workspace, rows)},
               {view("logits", arena_at<float>(workspace, logits_), {R, n, d, 2}),
                view("added", cache + cached * sizes_.token_cache_floats(rows), {n, sizes_.depth, 2, R, H, e})});
  }

  // logits (R, count, 2) become guided ones (count, 2) in place; odds: the log-odds of each bit.
  static void guide(float* logits, int64_t count, int rows, const WindowParams& params, float* odds) {
    if (rows == 2) {
      const float c = params.cfg_scale;
      const float* unconditional = logits + 2 * count;
      for (int64_t i = 0; i < 2 * count; ++i) logits[i] = c * logits[i] + (1.0f - c) * unconditional[i];
    }
    for (int64_t i = 0; i < count; ++i) odds[i] = logits[2 * i + 1] - logits[2 * i];
  }

  Status decode(void* workspace, float* motion) const {
    const int64_t F = sizes_.window_frames;
    UNILS_RETURN_IF_ERROR(run(PublishedConfig::kCodecDecode,
                              {view("latent", arena_at<float>(workspace, latent_), {1, F, sizes_.bits})},
                              {view("motion", motion, {1, F, sizes_.channels})}));
    for (int64_t i = 0; i < motion_floats(); ++i) {
      const int64_t channel = i % sizes_.channels;
      motion[i] = motion[i] * std_[channel] + mean_[channel];
    }
    return Status();
  }

  std::shared_ptr<const Model> model_;
  const PublishedConfig& sizes_;
  MultiScale scales_;
  const float *silence_, *mean_, *std_, *rest_latent_;
  std::vector<std::vector<float>> tables_;  // by level: cosines (n, e/2), then sines

  ArenaLayout state_, scratch_;
  size_t header_, previous_, style_;
  size_t waveform_, features_, prefix_latents_, audio_, cache_, inputs_, logits_, odds_, bits_, latent_, motion_;
};

}  // namespace

Status WindowEngine::create(std::shared_ptr<const Model> model, std::unique_ptr<WindowEngine>* engine) {
  engine->reset(new (std::nothrow) GraphWindowEngine(std::move(model)));
  return *engine != nullptr ? Status() : error(UNILS_ERROR_OUT_OF_MEMORY, "there is not enough memory for a session");
}

}  // namespace unils
