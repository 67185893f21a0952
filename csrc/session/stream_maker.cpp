#include "session/stream_maker.h"

#include <algorithm>
#include <utility>

namespace unils {
namespace {

Track engine_track(unils_track track) { return track == UNILS_TRACK_SELF ? Track::kSelf : Track::kOther; }

}  // namespace

Status StreamMaker::check(const unils_session_options& options) {
  if (options.mode != UNILS_MODE_WINDOWED) {
    return error(UNILS_ERROR_INVALID_ARGUMENT,
                 "a model of family stream has no rolling mode: it makes every frame as its hop arrives");
  }
  if (options.faces != 1) {
    return error(UNILS_ERROR_INVALID_ARGUMENT,
                 "a model of family stream has one face a session; make a second session with the tracks swapped");
  }
  return Status();
}

Status StreamMaker::create(const SessionSpec& spec, const unils_session_options& options, const EngineHome* home,
                           ArenaLayout* state, ArenaLayout* scratch, std::unique_ptr<FrameMaker>* maker) {
  UNILS_RETURN_IF_ERROR(check(options));
  std::unique_ptr<StreamMaker> made(new StreamMaker(spec, options, state, scratch));
  if (home != nullptr) {
    made->home_ = *home;
  } else {
    UNILS_RETURN_IF_ERROR(made->engine_->create_states(1, &made->own_states_));
    UNILS_RETURN_IF_ERROR(made->engine_->create_workspace(1, &made->own_workspace_));
    made->home_ = {made->own_states_->block(0), made->own_workspace_.get(), nullptr};
  }
  *maker = std::move(made);
  return Status();
}

StreamMaker::StreamMaker(const SessionSpec& spec, const unils_session_options& options, ArenaLayout* state,
                         ArenaLayout* scratch)
    : engine_(spec.engine), hop_samples_(spec.hop_samples) {
  lay_out(options, state, scratch);
}

Status StreamMaker::reopen(const unils_session_options& options, ArenaLayout* state, ArenaLayout* scratch) {
  UNILS_RETURN_IF_ERROR(check(options));
  lay_out(options, state, scratch);
  return Status();
}

void StreamMaker::lay_out(const unils_session_options& options, ArenaLayout* state, ArenaLayout* scratch) {
  style_frames_ = options.style_frames;
  params_.look_ahead_self = options.look_ahead_self;
  params_.look_ahead_other = options.look_ahead_other;
  params_.temperature = options.temperature;
  params_.top_p = options.top_p;
  params_.cfg_scale = options.cfg_scale;
  params_.seed = options.seed;
  counts_ = state->add<char>(engine_->counts_bytes());
  hop_ = scratch->add<float>(static_cast<size_t>(hop_samples_));
}

size_t StreamMaker::bytes() const {
  return sizeof *this + engine_->block_bytes() +
         (own_workspace_ != nullptr ? static_cast<size_t>(own_workspace_->bytes()) : 0);
}

Status StreamMaker::start_over(const float* const* styles) {
  UNILS_RETURN_IF_ERROR(engine_->reset(engine_state()));
  if (styles[0] == nullptr) return Status();
  std::unique_lock<std::mutex> lock;
  if (home_.mutex != nullptr) lock = std::unique_lock<std::mutex>(*home_.mutex);
  return engine_->set_style(engine_state(), *home_.workspace, styles[0], style_frames_);
}

Status StreamMaker::make(int64_t frame, Tracks* tracks, float* motion) {
  StepRequest request;
  request.motion = motion;
  UNILS_RETURN_IF_ERROR(begin(frame, tracks, *home_.workspace, &request));
  engine_->step_batch(&request, 1, *home_.workspace);
  UNILS_RETURN_IF_ERROR(std::move(request.status));
  end(frame, tracks);
  return Status();
}

Status StreamMaker::begin(int64_t frame, Tracks* tracks, StepWorkspace& workspace, StepRequest* request) {
  for (const unils_track track : kTracks) UNILS_RETURN_IF_ERROR(hear(track, frame, tracks, workspace));
  request->state = engine_state();
  request->params = &params_;
  return Status();
}

// Consumes the hop of the frame that was made.
void StreamMaker::end(int64_t, Tracks* tracks) {
  for (const unils_track track : kTracks) {
    TrackLine& line = tracks->lines[track];
    const int64_t used = std::clamp<int64_t>(line.heard - line.front, 0, hop_samples_);
    tracks->inputs[track]->consume(used);
    line.front += used;
  }
}

// Brings the track's rows up to what frame `frame` sees, the look-ahead included.
Status StreamMaker::hear(unils_track track, int64_t frame, Tracks* tracks, StepWorkspace& workspace) {
  TrackInput& input = *tracks->inputs[track];
  TrackLine& line = tracks->lines[track];
  line.front = std::max(line.front, frame * hop_samples_);
  const int64_t end = line.front + input.available();
  if (end > std::max(line.front, line.heard)) {
    // Rows that were made of silence because their audio had not come are made again now that it has.
    UNILS_RETURN_IF_ERROR(forget(track, std::max(frame, line.heard / hop_samples_), tracks));
  }
  float* hop = arena_at<float>(scratch_, hop_);
  for (int64_t row = engine_->rows(engine_state(), engine_track(track)); row <= frame + look_ahead(track); ++row) {
    const int64_t start = row * hop_samples_;
    const int64_t count = std::clamp<int64_t>(end - start, 0, hop_samples_);
    input.peek(start - line.front, count, hop);
    std::fill(hop + count, hop + hop_samples_, 0.0f);
    UNILS_RETURN_IF_ERROR(engine_->push_hop(engine_state(), workspace, engine_track(track), hop));
    if (count > 0) line.heard = start + count;
  }
  return Status();
}

Status StreamMaker::forget(unils_track track, int64_t frame, Tracks* tracks) {
  if (engine_->rows(engine_state(), engine_track(track)) > frame) {
    UNILS_RETURN_IF_ERROR(engine_->rewind_rows(engine_state(), engine_track(track), frame));
  }
  TrackLine& line = tracks->lines[track];
  line.heard = std::min(line.heard, frame * hop_samples_);
  return Status();
}

bool StreamMaker::plausible(int64_t frame, const Tracks& tracks) const {
  if (engine_->frame(engine_state()) != frame) return false;
  for (const unils_track track : kTracks) {
    const int64_t rows = engine_->rows(engine_state(), engine_track(track));
    if (rows < frame || rows > frame + 1 + look_ahead(track)) return false;
    if (tracks.lines[track].heard > rows * hop_samples_) return false;
  }
  return true;
}

}  // namespace unils
