#include "session/window_maker.h"

#include <algorithm>
#include <utility>

#include "audio/audio_ring.h"

namespace unils {

Status WindowMaker::check(const SessionSpec& spec, const unils_session_options& options) {
  const WindowEngine& engine = *spec.window_engine;
  if (static_cast<int>(spec.channels.size()) != engine.channels() || spec.window_frames != engine.window_frames()) {
    return error(UNILS_ERROR_BUNDLE, "the bundle's channels or window do not fit its graphs: %d channels and %d frames "
                 "against %d and %d", static_cast<int>(spec.channels.size()), spec.window_frames, engine.channels(),
                 engine.window_frames());
  }
  // A window that a ring cannot hold would never be made.
  if (int64_t{spec.hop_samples} * spec.window_frames > AudioRing::kCapacity - AudioRing::kReserve) {
    return error(UNILS_ERROR_BUNDLE, "a window of %d frames is longer than the audio that a session holds",
                 spec.window_frames);
  }
  if (options.style_frames != 0 && options.style_frames < spec.window_frames) {
    return error(UNILS_ERROR_INVALID_ARGUMENT,
                 "style has %lld frames; this model takes a clip of %d (of a longer one, the first %d)",
                 static_cast<long long>(options.style_frames), spec.window_frames, spec.window_frames);
  }
  return Status();
}

WindowMaker::WindowMaker(SessionSpec* spec, const unils_session_options& options, ArenaLayout* state,
                         ArenaLayout* scratch)
    : engine_(std::move(spec->window_engine)), hop_samples_(spec->hop_samples), style_frames_(options.style_frames) {
  params_.temperature = options.temperature;
  params_.top_p = options.top_p;
  params_.cfg_scale = options.cfg_scale;
  params_.seed = options.seed;
  engine_offset_ = state->add<char>(engine_->state_bytes());
  workspace_ = scratch->add<char>(engine_->workspace_bytes());
  for (size_t& audio : audio_) audio = scratch->add<float>(static_cast<size_t>(window_samples()));
}

Status WindowMaker::start_over(const float* style) {
  engine_->reset(engine_state());
  if (style_frames_ == 0) return Status();
  return engine_->set_style(engine_state(), workspace(), style, style_frames_);
}

Status WindowMaker::make(int64_t frame, Tracks* tracks, float* motion) {
  const int64_t start = frame * hop_samples_;
  int64_t counts[2] = {};
  float* audio[2] = {};
  for (const unils_track track : kTracks) {
    TrackLine& line = tracks->lines[track];
    line.front = std::max(line.front, start);
    counts[track] = std::min(tracks->inputs[track]->available(), window_samples());
    audio[track] = arena_at<float>(scratch_, audio_[track]);
    tracks->inputs[track]->peek(0, counts[track], audio[track]);
    std::fill(audio[track] + counts[track], audio[track] + window_samples(), 0.0f);
  }
  UNILS_RETURN_IF_ERROR(engine_->step(engine_state(), workspace(), audio[UNILS_TRACK_SELF], audio[UNILS_TRACK_OTHER],
                                      params_, motion));
  for (const unils_track track : kTracks) {
    TrackLine& line = tracks->lines[track];
    tracks->inputs[track]->consume(counts[track]);
    line.front += counts[track];
    line.heard = line.front;
  }
  return Status();
}

bool WindowMaker::plausible(int64_t frame, const Tracks&) const {
  const int64_t frames = engine_->window_frames();
  return engine_->windows(engine_state()) == (frame + frames - 1) / frames;
}

}  // namespace unils
