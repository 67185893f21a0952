// Shapes, besides those of docs/published.md: f faces; s shown, h new frames of a window; R rows of a batch: the
// conditional one of each face, then with guidance the unconditional one of each; e head width.
#include "engine/window_engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <new>
#include <string>
#include <vector>

#include "core/arena.h"
#include "engine/multi_scale.h"
#include "engine/rope.h"
#include "engine/sampler.h"
#include "engine/waveform.h"
#include "model/model.h"

namespace unils {
namespace {

constexpr int kHopSamples = 640;
// Rolling mode: what is left, a frame later, of the step between the last frame shown and the same frame made again.
// Lips must arrive; a head may drift.
constexpr float kSeamDecay = 0.7f, kHeadSeamDecay = 0.95f;

bool all_finite(const float* values, int64_t count) {
  return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

unils_tensor_view view(const char* name, float* data, std::initializer_list<int64_t> shape) {
  unils_tensor_view tensor = {name, UNILS_ELEMENT_FLOAT32, static_cast<int32_t>(shape.size()), {}, data};
  std::copy(shape.begin(), shape.end(), tensor.shape);
  return tensor;
}

struct Header {
  int64_t steps;  // made
};

class GraphWindowEngine final : public WindowEngine {
 public:
  GraphWindowEngine(std::shared_ptr<const Model> model, const WindowShape& shape)
      : model_(std::move(model)),
        sizes_(model_->config().published),
        shape_(shape),
        scales_(sizes_.window_frames, sizes_.scales, sizes_.bits),
        silence_(model_->weights().find("audio.silence")),
        mean_(model_->weights().find("codec.motion_mean")),
        std_(model_->weights().find("codec.motion_std")),
        rest_latent_(model_->weights().find("codec.rest_latent")) {
    const auto floats = [](int64_t count) { return static_cast<size_t>(count); };
    const int64_t f = shape_.faces, rows = 2 * f;
    header_ = state_.add<Header>(1);
    shown_ = state_.add<float>(floats(f * 2 * motion_floats()));
    styles_ = state_.add<float>(floats(f * latent_floats()));

    waveforms_ = scratch_.add<float>(floats(2 * samples()));
    heard_ = scratch_.add<float>(floats(2 * feature_floats()));
    features_ = scratch_.add<float>(floats(2 * rows * feature_floats()));
    prefix_latents_ = scratch_.add<float>(floats(2 * rows * latent_floats()));
    inputs_ = scratch_.add<float>(floats(rows * latent_floats()));
    logits_ = scratch_.add<float>(floats(rows * 2 * latent_floats()));
    odds_ = scratch_.add<float>(floats(f * latent_floats()));
    bits_ = scratch_.add<float>(floats(int64_t{sizes_.tokens()} * sizes_.bits));
    z_ = scratch_.add<float>(floats(f * latent_floats()));
    latents_ = scratch_.add<float>(floats(f * latent_floats()));
    motion_ = scratch_.add<float>(floats(f * motion_floats()));

    for (const std::string& channel : model_->config().channels) {
      decays_.push_back(channel.rfind("head", 0) == 0 ? kHeadSeamDecay : kSeamDecay);
    }

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

  Status allocate() {
    UNILS_RETURN_IF_ERROR(model_->graphs().allocate(audio_bytes(), &audio_));
    return model_->graphs().allocate(cache_bytes(), &cache_);
  }

  size_t state_bytes() const override { return state_.bytes(); }
  size_t workspace_bytes() const override { return scratch_.bytes(); }
  size_t graph_bytes() const override { return audio_bytes() + cache_bytes(); }

  void reset(void* state) const override {
    std::memset(state, 0, state_.bytes());
    for (int face = 0; face < shape_.faces; ++face) std::copy_n(rest_latent_, latent_floats(), style(state, face));
  }

  Status set_style(void* state, void* workspace, int face, const float* motion) const override {
    normalise(motion, sizes_.window_frames, arena_at<float>(workspace, motion_));
    UNILS_RETURN_IF_ERROR(encode(workspace, 1));
    quantise(workspace, 0, style(state, face));
    return Status();
  }

  int64_t steps(const void* state) const override { return arena_at<Header>(state, header_)->steps; }

  int64_t window_begin(const void* state) const override {
    return std::max<int64_t>(0, (steps(state) + 1) * shape_.hop_frames + shape_.look_ahead - sizes_.window_frames);
  }

  Status step(void* state, void* workspace, const float* self, const float* other, const WindowParams& params,
              float* motion) const override {
    const int rows = shape_.faces * (params.cfg_scale > 1.0f ? 2 : 1);
    const int64_t begin = window_begin(state), shown = steps(state) * shape_.hop_frames - begin;
    UNILS_RETURN_IF_ERROR(hear(workspace, rows, self, other));
    UNILS_RETURN_IF_ERROR(prefill(state, workspace, rows, begin, shown));
    if (shown > 0) UNILS_RETURN_IF_ERROR(encode_shown(state, workspace, shown));

    float* latents = arena_at<float>(workspace, latents_);
    std::fill_n(latents, shape_.faces * latent_floats(), 0.0f);
    for (int level = 0; level < scales_.levels(); ++level) {
      UNILS_RETURN_IF_ERROR(run_level(workspace, rows, level));
      UNILS_RETURN_IF_ERROR(guide(state, workspace, rows, level, params));
      for (int face = 0; face < shape_.faces; ++face) choose(state, workspace, level, face, shown, params);
    }
    UNILS_RETURN_IF_ERROR(run(PublishedConfig::kCodecDecode,
                              {view("latent", latents, {shape_.faces, sizes_.window_frames, sizes_.bits})},
                              {motion_view("motion", workspace, shape_.faces)}));
    hand_over(state, workspace, shown, motion);
    const int64_t floats = int64_t{shape_.hop_frames} * shape_.faces * sizes_.channels;
    if (!all_finite(motion, floats)) return overflow(state);
    show(state, motion);
    return Status();
  }

 private:
  int max_rows() const { return 2 * shape_.faces; }
  size_t audio_bytes() const { return sizeof(float) * static_cast<size_t>(sizes_.audio_cache_floats(max_rows())); }
  size_t cache_bytes() const {
    const int64_t positions = sizes_.prefix() + sizes_.tokens();
    return sizeof(float) * static_cast<size_t>(positions * sizes_.token_cache_floats(max_rows()));
  }
  int64_t samples() const { return int64_t{kHopSamples} * sizes_.window_frames; }
  int64_t latent_floats() const { return int64_t{sizes_.window_frames} * sizes_.bits; }
  int64_t motion_floats() const { return int64_t{sizes_.window_frames} * sizes_.channels; }
  int64_t feature_floats() const { return int64_t{sizes_.audio_rows} * sizes_.audio_width; }
  float* style(void* state, int face) const { return arena_at<float>(state, styles_) + face * latent_floats(); }
  // The frames that a face showed last, oldest first, up to the end of its 2F.
  const float* shown_last(const void* state, int face, int64_t frames) const {
    return arena_at<float>(state, shown_) + (face + 1) * 2 * motion_floats() - frames * sizes_.channels;
  }

  Status overflow(const void* state) const {
    return error(UNILS_ERROR_BUNDLE, "frame %lld is not finite: the weights of this model overflow; import it again",
                 static_cast<long long>(steps(state) * shape_.hop_frames));
  }

  template <size_t I, size_t O>
  Status run(PublishedConfig::Graph graph, const unils_tensor_view (&inputs)[I],
             const unils_tensor_view (&outputs)[O]) const {
    return model_->graphs().run(PublishedConfig::kGraphs[graph], inputs, static_cast<int>(I), outputs,
                                static_cast<int>(O));
  }
  unils_tensor_view motion_view(const char* name, void* workspace, int faces) const {
    return view(name, arena_at<float>(workspace, motion_), {faces, sizes_.window_frames, sizes_.channels});
  }

  void normalise(const float* motion, int64_t frames, float* out) const {
    for (int64_t i = 0; i < frames * sizes_.channels; ++i) {
      const int64_t channel = i % sizes_.channels;
      out[i] = (motion[i] - mean_[channel]) / std_[channel];
    }
  }

  // The normalised motion (faces, F, D) of the workspace -> its z (faces, F, d).
  Status encode(void* workspace, int faces) const {
    return run(PublishedConfig::kCodecEncode, {motion_view("motion", workspace, faces)},
               {view("z", arena_at<float>(workspace, z_), {faces, sizes_.window_frames, sizes_.bits})});
  }
  // The z of a face, which is used up, -> its quantised latent.
  void quantise(void* workspace, int face, float* latent) const {
    scales_.quantise(arena_at<float>(workspace, z_) + face * latent_floats(), arena_at<float>(workspace, bits_), latent,
                     arena_at<float>(workspace, odds_));
  }

  // Features that each face hears, (R, J, A) for each role of a track; an unconditional row hears nothing.
  Status hear(void* workspace, int rows, const float* self, const float* other) const {
    const float* tracks[2] = {self, other};
    float* waveforms = arena_at<float>(workspace, waveforms_);
    float* heard = arena_at<float>(workspace, heard_);
    const float* features[2] = {};
    int64_t speaking = 0;
    for (int track = 0; track < 2; ++track) {
      const bool speaks = normalise_waveform(tracks[track], samples(), waveforms + speaking * samples());
      features[track] = speaks ? heard + speaking++ * feature_floats() : silence_;
    }
    if (speaking > 0) {
      UNILS_RETURN_IF_ERROR(run(PublishedConfig::kAudioEncoder, {view("waveform", waveforms, {speaking, samples()})},
                                {view("features", heard, {speaking, sizes_.audio_rows, sizes_.audio_width})}));
    }
    for (int role = 0; role < 2; ++role) {
      float* out = role_features(workspace, role);
      for (int face = 0; face < shape_.faces; ++face) {
        std::copy_n(features[face == 0 ? role : 1 - role], feature_floats(), out + face * feature_floats());
      }
      std::fill_n(out + shape_.faces * feature_floats(), (rows - shape_.faces) * feature_floats(), 0.0f);
    }
    return Status();
  }
  // role: 0 the face's own track, 1 the other person's.
  float* role_features(void* workspace, int role) const {
    return arena_at<float>(workspace, features_) + role * 2 * shape_.faces * feature_floats();
  }

  // Keys and values of the style and previous tokens, and of the audio.
  Status prefill(void* state, void* workspace, int rows, int64_t begin, int64_t shown) const {
    const int64_t F = sizes_.window_frames, R = rows, d = sizes_.bits, H = sizes_.heads, e = sizes_.head_width();
    float* styles = arena_at<float>(workspace, prefix_latents_);
    float* previous = styles + 2 * shape_.faces * latent_floats();
    if (begin > 0) {
      for (int face = 0; face < shape_.faces; ++face) {
        normalise(shown_last(state, face, shown + F), F, arena_at<float>(workspace, motion_) + face * motion_floats());
      }
      UNILS_RETURN_IF_ERROR(encode(workspace, shape_.faces));
    }
    for (int row = 0; row < rows; ++row) {
      const int face = row % shape_.faces;
      std::copy_n(row < shape_.faces ? style(state, face) : rest_latent_, latent_floats(),
                  styles + row * latent_floats());
      float* latent = previous + row * latent_floats();
      if (begin == 0) {
        std::copy_n(rest_latent_, latent_floats(), latent);  // nothing moved before frame 0
      } else if (row < shape_.faces) {
        quantise(workspace, face, latent);
      } else {
        std::copy_n(previous + face * latent_floats(), latent_floats(), latent);
      }
    }
    return run(PublishedConfig::kPrefill,
               {view("style", styles, {R, F, d}), view("previous", previous, {R, F, d}),
                view("self_features", role_features(workspace, 0), {R, sizes_.audio_rows, sizes_.audio_width}),
                view("other_features", role_features(workspace, 1), {R, sizes_.audio_rows, sizes_.audio_width})},
               {view("cache", static_cast<float*>(cache_.get()), {sizes_.prefix(), sizes_.depth, 2, R, H, e}),
                audio_view(rows)});
  }

  unils_tensor_view audio_view(int rows) const {
    return view("audio", static_cast<float*>(audio_.get()),
                {sizes_.depth, sizes_.contexts, 2, rows, sizes_.heads, sizes_.context_rows(), sizes_.head_width()});
  }

  // z of the window, whose frames that are not shown yet hold still.
  Status encode_shown(const void* state, void* workspace, int64_t shown) const {
    const int64_t D = sizes_.channels;
    for (int face = 0; face < shape_.faces; ++face) {
      float* motion = arena_at<float>(workspace, motion_) + face * motion_floats();
      normalise(shown_last(state, face, shown), shown, motion);
      for (int64_t frame = shown; frame < sizes_.window_frames; ++frame) {
        std::copy_n(motion + (shown - 1) * D, D, motion + frame * D);
      }
    }
    return encode(workspace, shape_.faces);
  }

  // Logits (R, n, d, 2) of a level's tokens; its keys and values go behind those of the levels before.
  Status run_level(void* workspace, int rows, int level) const {
    const int64_t n = scales_.tokens(level), R = rows, d = sizes_.bits, H = sizes_.heads, e = sizes_.head_width();
    const int64_t cached = sizes_.prefix() + scales_.begin(level), faces = shape_.faces;
    float* inputs = arena_at<float>(workspace, inputs_);
    float* cache = static_cast<float*>(cache_.get());
    for (int64_t face = 0; face < faces; ++face) {
      scales_.down(arena_at<float>(workspace, latents_) + face * latent_floats(), level, inputs + face * n * d);
    }
    if (R > faces) std::copy_n(inputs, faces * n * d, inputs + faces * n * d);
    int64_t number = level;
    unils_tensor_view level_view = {"level", UNILS_ELEMENT_INT64, 1, {1}, &number};
    float* table = const_cast<float*>(tables_[static_cast<size_t>(level)].data());  // an input is only read
    return run(PublishedConfig::kStep,
               {view("latents", inputs, {R, n, d}), level_view, view("rope", table, {2, n, e / 2}),
                view("cache", cache, {cached, sizes_.depth, 2, R, H, e}), audio_view(rows)},
               {view("logits", arena_at<float>(workspace, logits_), {R, n, d, 2}),
                view("added", cache + cached * sizes_.token_cache_floats(rows), {n, sizes_.depth, 2, R, H, e})});
  }

  // Logits (R, n, d, 2) -> the log-odds (faces, n, d) of each bit, after guidance.
  Status guide(const void* state, void* workspace, int rows, int level, const WindowParams& params) const {
    const int64_t count = int64_t{shape_.faces} * scales_.tokens(level) * sizes_.bits;
    float* logits = arena_at<float>(workspace, logits_);
    float* odds = arena_at<float>(workspace, odds_);
    if (rows > shape_.faces) {
      const float c = params.cfg_scale;
      const float* unconditional = logits + 2 * count;
      for (int64_t i = 0; i < 2 * count; ++i) logits[i] = c * logits[i] + (1.0f - c) * unconditional[i];
    }
    for (int64_t i = 0; i < count; ++i) odds[i] = logits[2 * i + 1] - logits[2 * i];
    return all_finite(odds, count) ? Status() : overflow(state);
  }

  // Bits of the tokens of a level all of whose frames are shown, its first ones; returns how many: those of what the
  // coarser levels leave of z. A coarse token that reaches into the new frames is sampled, or nothing slow would ever
  // begin; the finer ones make up for what that does to frames shown. Writes over the logits, which are used up.
  int64_t fix(void* workspace, int level, int face, int64_t shown, float* bits) const {
    const int64_t fixed = shown * scales_.tokens(level) / sizes_.window_frames;
    if (fixed == 0) return 0;
    const float* z = arena_at<float>(workspace, z_) + face * latent_floats();
    const float* latent = arena_at<float>(workspace, latents_) + face * latent_floats();
    float* left = arena_at<float>(workspace, logits_);
    float* means = left + latent_floats();
    for (int64_t i = 0; i < latent_floats(); ++i) left[i] = z[i] - latent[i];
    scales_.down(left, level, means);
    for (int64_t i = 0; i < fixed * sizes_.bits; ++i) bits[i] = means[i] > 0.0f ? 1.0f : -1.0f;
    return fixed;
  }

  // The bits of a level's tokens, fixed or sampled, are added to the face's latent.
  void choose(const void* state, void* workspace, int level, int face, int64_t shown,
              const WindowParams& params) const {
    const int64_t n = scales_.tokens(level), d = sizes_.bits;
    const float* odds = arena_at<float>(workspace, odds_) + face * n * d;
    float* latent = arena_at<float>(workspace, latents_) + face * latent_floats();
    float* bits = arena_at<float>(workspace, bits_);
    for (int64_t token = fix(workspace, level, face, shown, bits); token < n; ++token) {
      const auto number = static_cast<int>(scales_.begin(level) + token);
      sample_bits(odds + token * d, static_cast<int>(d), params.temperature, params.top_p,
                  params.seed + static_cast<uint64_t>(face), steps(state), number, bits + token * d);
    }
    scales_.add(bits, level, latent);
  }

  // The new frames of the decoded window (faces, F, D), in the rig's units, joined to the last one shown.
  void hand_over(const void* state, const void* workspace, int64_t shown, float* motion) const {
    const int64_t D = sizes_.channels;
    for (int face = 0; face < shape_.faces; ++face) {
      const float* decoded = arena_at<float>(workspace, motion_) + face * motion_floats();
      const float* last = shown_last(state, face, 1);
      for (int64_t channel = 0; channel < D; ++channel) {
        const auto value = [&](int64_t frame) { return decoded[frame * D + channel] * std_[channel] + mean_[channel]; };
        float offset = shown > 0 ? last[channel] - value(shown - 1) : 0.0f;
        for (int64_t i = 0; i < shape_.hop_frames; ++i) {
          offset *= decays_[static_cast<size_t>(channel)];
          motion[(i * shape_.faces + face) * D + channel] = value(shown + i) + offset;
        }
      }
    }
  }

  // Remembers the frames (h, faces, D) of a step that has succeeded.
  void show(void* state, const float* motion) const {
    const int64_t D = sizes_.channels, h = shape_.hop_frames, kept = 2 * sizes_.window_frames - h;
    for (int face = 0; face < shape_.faces; ++face) {
      float* shown = arena_at<float>(state, shown_) + face * 2 * motion_floats();
      std::copy(shown + h * D, shown + (h + kept) * D, shown);
      for (int64_t i = 0; i < h; ++i) std::copy_n(motion + (i * shape_.faces + face) * D, D, shown + (kept + i) * D);
    }
    ++arena_at<Header>(state, header_)->steps;
  }

  std::shared_ptr<const Model> model_;
  const PublishedConfig& sizes_;
  WindowShape shape_;
  MultiScale scales_;
  const float *silence_, *mean_, *std_, *rest_latent_;
  std::vector<float> decays_;  // (D)
  std::vector<std::vector<float>> tables_;  // of each level, (2, n, e / 2): cosines, then sines

  ArenaLayout state_, scratch_;
  size_t header_, shown_, styles_;
  size_t waveforms_, heard_, features_, prefix_latents_, inputs_, logits_, odds_, bits_, z_, latents_, motion_;
  Graphs::Memory audio_, cache_;  // keys and values; given back before the model goes
};

}  // namespace

Status WindowEngine::create(std::shared_ptr<const Model> model, const WindowShape& shape,
                            std::unique_ptr<WindowEngine>* engine) {
  std::unique_ptr<GraphWindowEngine> made(new (std::nothrow) GraphWindowEngine(std::move(model), shape));
  if (made == nullptr) return error(UNILS_ERROR_OUT_OF_MEMORY, "there is not enough memory for a session");
  UNILS_RETURN_IF_ERROR(made->allocate());
  *engine = std::move(made);
  return Status();
}

}  // namespace unils
