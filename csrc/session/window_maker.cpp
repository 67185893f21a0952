#include "session/window_maker.h"

#include <algorithm>
#include <utility>

#include "audio/audio_ring.h"

namespace unils {

Status WindowMaker::create(const SessionSpec& spec, const unils_session_options& options, ArenaLayout* state,
                           ArenaLayout* scratch, std::unique_ptr<FrameMaker>* maker) {
  WindowShape shape;
  shape.faces = options.faces;
  shape.hop_frames = spec.block_frames(options);
  shape.look_ahead = std::max(options.look_ahead_self, options.look_ahead_other);
  UNILS_RETURN_IF_ERROR(check(spec, options, shape));
  std::unique_ptr<WindowEngine> engine;
  UNILS_RETURN_IF_ERROR(WindowEngine::create(spec.published, shape, &engine));
  maker->reset(new WindowMaker(spec, options, shape, std::move(engine), state, scratch));
  return Status();
}

Status WindowMaker::check(const SessionSpec& spec, const unils_session_options& options, const WindowShape& shape) {
  if (options.mode == UNILS_MODE_WINDOWED && shape.look_ahead != 0) {
    return error(UNILS_ERROR_INVALID_ARGUMENT,
                 "look_ahead is %d frames; the model's own windows have theirs inside, so it is 0 unless the mode is "
                 "rolling", shape.look_ahead);
  }
  if (shape.hop_frames > spec.window_frames - shape.look_ahead) {
    return error(UNILS_ERROR_INVALID_ARGUMENT,
                 "hop_frames is %d and the look-ahead %d frames; together they are at most %d, the window of this model",
                 shape.hop_frames, shape.look_ahead, spec.window_frames);
  }
  // A block that a ring cannot hold would never be made.
  const int64_t held = (AudioRing::kCapacity - AudioRing::kReserve) / spec.hop_samples;
  if (shape.hop_frames + shape.look_ahead > held) {
    return error(UNILS_ERROR_INVALID_ARGUMENT,
                 "frames would wait for %d hops of audio, and a session holds %lld; use rolling mode with fewer",
                 shape.hop_frames + shape.look_ahead, static_cast<long long>(held));
  }
  if (options.style_frames != 0 && options.style_frames < spec.window_frames) {
    return error(UNILS_ERROR_INVALID_ARGUMENT,
                 "style has %lld frames; this model takes a clip of %d (of a longer one, the first %d)",
                 static_cast<long long>(options.style_frames), spec.window_frames, spec.window_frames);
  }
  return Status();
}

WindowMaker::WindowMaker(const SessionSpec& spec, const unils_session_options& options, const WindowShape& shape,
                         std::unique_ptr<WindowEngine> engine, ArenaLayout* state, ArenaLayout* scratch)
    : engine_(std::move(engine)),
      shape_(shape),
      window_frames_(spec.window_frames),
      past_frames_(spec.window_frames - shape.hop_frames - shape.look_ahead),
      hop_samples_(spec.hop_samples),
      look_ahead_{options.look_ahead_self, options.look_ahead_other} {
  params_.temperature = options.temperature;
  params_.top_p = options.top_p;
  params_.cfg_scale = options.cfg_scale;
  params_.seed = options.seed;
  engine_offset_ = state->add<char>(engine_->state_bytes());
  workspace_ = scratch->add<char>(engine_->workspace_bytes());
  for (const unils_track track : kTracks) {
    past_[track] = state->add<float>(static_cast<size_t>(past_frames_ * hop_samples_));
    audio_[track] = scratch->add<float>(static_cast<size_t>(window_frames_ * hop_samples_));
  }
}

Status WindowMaker::start_over(const float* const* styles) {
  engine_->reset(engine_state());
  for (int face = 0; face < shape_.faces; ++face) {
    if (styles[face] == nullptr) continue;
    UNILS_RETURN_IF_ERROR(engine_->set_style(engine_state(), workspace(), face, styles[face]));
  }
  return Status();
}

Status WindowMaker::make(int64_t frame, Tracks* tracks, float* motion) {
  const int64_t shown = frame - engine_->window_begin(engine_state());
  const int64_t before = shown * hop_samples_, block = shape_.hop_frames * hop_samples_;
  int64_t used[2] = {};
  for (const unils_track track : kTracks) {
    TrackLine& line = tracks->lines[track];
    line.front = std::max(line.front, frame * hop_samples_);
    // What is beyond the look-ahead is not heard even when it has come, so that frames do not depend on when it did.
    const int64_t count = std::min(tracks->inputs[track]->available(), block + look_ahead_[track] * hop_samples_);
    used[track] = std::min(count, block);
    std::copy_n(past(track) + past_frames_ * hop_samples_ - before, before, audio(track));
    tracks->inputs[track]->peek(0, count, audio(track) + before);
    std::fill(audio(track) + before + count, audio(track) + window_frames_ * hop_samples_, 0.0f);
  }
  UNILS_RETURN_IF_ERROR(engine_->step(engine_state(), workspace(), audio(UNILS_TRACK_SELF), audio(UNILS_TRACK_OTHER),
                                      params_, motion));
  for (const unils_track track : kTracks) {
    TrackLine& line = tracks->lines[track];
    tracks->inputs[track]->consume(used[track]);
    line.front += used[track];
    line.heard = line.front;
    const int64_t kept = std::min(past_frames_ * hop_samples_, before + block);
    std::copy_n(audio(track) + before + block - kept, kept, past(track) + past_frames_ * hop_samples_ - kept);
  }
  return Status();
}

bool WindowMaker::plausible(int64_t frame, const Tracks&) const {
  return engine_->steps(engine_state()) == (frame + shape_.hop_frames - 1) / shape_.hop_frames;
}

}  // namespace unils
