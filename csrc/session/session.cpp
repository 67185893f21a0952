#include "session/session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/int_of.h"
#include "session/pulling.h"

namespace unils {

Session::Layout::Layout(const SessionSpec& spec, const unils_session_options& options) {
  const int block_frames = spec.block_frames(options);
  const size_t frame_values = static_cast<size_t>(options.faces) * spec.channels.size();
  for (const unils_track track : kTracks) {
    rings[track] = state.add<float>(AudioRing::kCapacity);
    tables[track] = scratch.add<float>(Resampler::kTableFloats);
  }
  const size_t queued = FrameQueue::capacity(block_frames, options.smoothing != 0);
  queue = state.add<float>(queued * frame_values);
  generations = state.add<int64_t>(queued);
  step_times = scratch.add<float>(StepTimes::kFloats);
  styles = scratch.add<float>(static_cast<size_t>(options.style_frames) * frame_values);
  block = scratch.add<float>(static_cast<size_t>(block_frames) * frame_values);
}

Status Session::check(const SessionSpec& spec, const unils_session_options& options) {
  const auto refuse = [](const char* sentence) { return Status(UNILS_ERROR_INVALID_ARGUMENT, sentence); };
  if (int_of(options.clock) < UNILS_CLOCK_BOTH || int_of(options.clock) > UNILS_CLOCK_SELF) {
    return refuse("clock must be UNILS_CLOCK_BOTH, UNILS_CLOCK_OTHER or UNILS_CLOCK_SELF");
  }
  if (int_of(options.mode) < UNILS_MODE_WINDOWED || int_of(options.mode) > UNILS_MODE_ROLLING) {
    return refuse("mode must be UNILS_MODE_WINDOWED or UNILS_MODE_ROLLING");
  }
  if (options.mode == UNILS_MODE_ROLLING && options.hop_frames < 1) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "hop_frames is %d; it is 1 to %d, the window of this model",
                 options.hop_frames, spec.window_frames);
  }
  if (options.faces != 1 && options.faces != 2) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "faces is %d; a conversation has 1 or 2", options.faces);
  }
  if (options.look_ahead_self < 0 || options.look_ahead_self > spec.look_ahead_self_max) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "look_ahead_self is %d frames; this model takes 0 to %d",
                 options.look_ahead_self, spec.look_ahead_self_max);
  }
  if (options.look_ahead_other < 0 || options.look_ahead_other > spec.look_ahead_other_max) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "look_ahead_other is %d frames; this model takes 0 to %d",
                 options.look_ahead_other, spec.look_ahead_other_max);
  }
  if (!std::isfinite(options.temperature) || options.temperature < 0.0f) {
    return refuse("temperature must be a finite number of at least 0; 0 is greedy");
  }
  if (!(options.top_p > 0.0f && options.top_p <= 1.0f)) return refuse("top_p must lie in (0, 1]");
  if (!std::isfinite(options.cfg_scale) || options.cfg_scale < 0.0f) {
    return refuse("cfg_scale must be a finite number of at least 0; 1 switches guidance off");
  }
  if (options.smoothing != 0 && options.smoothing != 1) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "smoothing is %d; it can be 0 (off) or 1 (on)", options.smoothing);
  }
  if ((options.style == nullptr && options.style_other == nullptr) != (options.style_frames == 0)) {
    return refuse("style and style_frames go together: a pointer with its frames, or NULL with 0");
  }
  if (options.style_other != nullptr && options.faces != 2) {
    return refuse("style_other is the style of a second face, and faces is 1");
  }
  if (options.style_frames != 0) {
    if (options.style_frames < kMinStyleFrames || options.style_frames > kMaxStyleFrames) {
      return error(UNILS_ERROR_INVALID_ARGUMENT, "style has %lld frames; give %lld to %lld (1 to 20 seconds)",
                   static_cast<long long>(options.style_frames), static_cast<long long>(kMinStyleFrames),
                   static_cast<long long>(kMaxStyleFrames));
    }
    const int64_t values = options.style_frames * static_cast<int64_t>(spec.channels.size());
    for (const float* style : {options.style, options.style_other}) {
      if (style == nullptr) continue;
      if (!std::all_of(style, style + values, [](float value) { return std::isfinite(value); })) {
        return refuse("style holds a number that is NaN or infinite");
      }
    }
  }
  return Status();
}

Status Session::create(const SessionSpec& spec, const unils_session_options& options,
                       std::unique_ptr<Session>* session) {
  return create(spec, options, options, nullptr, session);
}

Status Session::create_reopenable(const SessionSpec& spec, const unils_session_options& options,
                                  const EngineHome& home, std::unique_ptr<Session>* session) {
  unils_session_options widest = options;
  widest.style_frames = kMaxStyleFrames;
  widest.smoothing = 1;
  return create(spec, options, widest, &home, session);
}

Status Session::create(const SessionSpec& spec, const unils_session_options& options,
                       const unils_session_options& widest, const EngineHome* home, std::unique_ptr<Session>* session) {
  UNILS_RETURN_IF_ERROR(check(spec, options));
  Layout layout(spec, options);
  // What the maker holds does not change with these options.
  const Layout wide(spec, widest);
  const size_t spare_state = wide.state.bytes() - layout.state.bytes();
  const size_t spare_scratch = wide.scratch.bytes() - layout.scratch.bytes();
  std::unique_ptr<FrameMaker> maker;
  UNILS_RETURN_IF_ERROR(FrameMaker::create(spec, options, home, &layout.state, &layout.scratch, &maker));
  Arena state, scratch;
  UNILS_RETURN_IF_ERROR(Arena::create(layout.state.bytes() + spare_state, &state));
  UNILS_RETURN_IF_ERROR(Arena::create(layout.scratch.bytes() + spare_scratch, &scratch));
  std::unique_ptr<Session> made(
      new Session(spec, options, std::move(maker), layout, std::move(state), std::move(scratch)));
  UNILS_RETURN_IF_ERROR(made->start_over());
  *session = std::move(made);
  return Status();
}

Status Session::reopen(const SessionSpec& spec, const unils_session_options& options) {
  UNILS_RETURN_IF_ERROR(check(spec, options));
  Layout layout(spec, options);
  UNILS_RETURN_IF_ERROR(maker_->reopen(options, &layout.state, &layout.scratch));
  const TrackLock lock(self_, other_);
  open(spec, options, layout);
  return start_over();
}

Session::Session(const SessionSpec& spec, const unils_session_options& options, std::unique_ptr<FrameMaker> maker,
                 const Layout& layout, Arena state, Arena scratch)
    : maker_(std::move(maker)),
      layout_(layout),
      state_(std::move(state)),
      scratch_(std::move(scratch)),
      rig_(spec.rig, spec.channels),
      hop_samples_(spec.hop_samples),
      frame_rate_(spec.frame_rate),
      fingerprint_(spec.fingerprint),
      // The tracks come first in every layout.
      self_("self", state_.at<float>(layout.rings[UNILS_TRACK_SELF]),
            scratch_.at<float>(layout.tables[UNILS_TRACK_SELF])),
      other_("other", state_.at<float>(layout.rings[UNILS_TRACK_OTHER]),
             scratch_.at<float>(layout.tables[UNILS_TRACK_OTHER])) {
  tracks_.inputs[UNILS_TRACK_SELF] = &self_;
  tracks_.inputs[UNILS_TRACK_OTHER] = &other_;
  open(spec, options, layout);
}

void Session::open(const SessionSpec& spec, const unils_session_options& options, const Layout& layout) {
  layout_ = layout;
  options_ = options;
  clock_ = TrackClock(options.clock, hop_samples_, options.look_ahead_self, options.look_ahead_other);
  block_frames_ = spec.block_frames(options);
  queue_ = FrameQueue(state_.at<float>(layout.queue), state_.at<int64_t>(layout.generations), block_frames_,
                      frame_values(), smoothing());
  step_times_ = StepTimes(scratch_.at<float>(layout.step_times));
  styled_[0] = options.style != nullptr;
  styled_[1] = options.style_other != nullptr;
  // What a clip does not fill counts as zero.
  std::fill_n(style(0), options.faces * style_values(), 0.0f);
  if (styled_[0]) std::copy_n(options.style, style_values(), style(0));
  if (styled_[1]) std::copy_n(options.style_other, style_values(), style(1));
  options_.style = options_.style_other = nullptr;
  maker_->bind(state_.data(), scratch_.data());
}

Status Session::start_over() {
  self_.reset();
  other_.reset();
  // Nothing of the past may show in a snapshot.
  std::memset(state_.data(), 0, state_.bytes());
  for (TrackLine& line : tracks_.lines) line = TrackLine();
  queue_.load(FrameQueue::State());
  generation_ = 0;
  silent_own_frames_ = 0;
  finished_ = false;
  step_times_.reset();
  const float* styles[2] = {styled_[0] ? style(0) : nullptr, styled_[1] ? style(1) : nullptr};
  return maker_->start_over(styles);
}

Status Session::push_audio(int track, const void* samples, int format, int64_t count, int sample_rate,
                           int64_t* taken) {
  *taken = 0;
  if (track != UNILS_TRACK_SELF && track != UNILS_TRACK_OTHER) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "track %d does not exist; it is UNILS_TRACK_SELF or UNILS_TRACK_OTHER",
                 track);
  }
  if (format != UNILS_INT16 && format != UNILS_FLOAT32) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "sample format %d does not exist; it is UNILS_INT16 or UNILS_FLOAT32",
                 format);
  }
  if (count < 0 || (samples == nullptr && count > 0)) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "samples is NULL or count is negative (%lld)",
                 static_cast<long long>(count));
  }
  if (!clock_.takes(static_cast<unils_track>(track))) {
    return error(UNILS_ERROR_INVALID_ARGUMENT,
                 "clock SELF takes no audio on track other; use clock BOTH or OTHER for a conversation");
  }
  return tracks_.inputs[track]->push(samples, static_cast<unils_sample_format>(format), count, sample_rate, taken);
}

int64_t Session::frames_to_make() {
  const int64_t self = end(UNILS_TRACK_SELF);
  const int64_t other = end(UNILS_TRACK_OTHER);
  const int64_t reached = clock_.frames_reached(self, other) / block_frames_ * block_frames_;
  const int64_t frames = finished_ ? clock_.frames_in_all(self, other) : reached;
  return std::max<int64_t>(0, frames - queue_.end_index());
}

// Frames that can be handed over before the next are made.
int64_t Session::frames_leaving() {
  return queue_.leaving(queue_.end_index(), finished_ && frames_to_make() == 0);
}

Status Session::pull_frames(const unils_frames& frames, int64_t capacity, int64_t* count) {
  *count = 0;
  if (capacity < 0 || (frames.values == nullptr && capacity > 0)) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "frames->values is NULL or capacity is negative (%lld)",
                 static_cast<long long>(capacity));
  }
  const Pulling pulling(pulling_);
  UNILS_RETURN_IF_ERROR(pulling.status());
  int64_t generation = 0;
  for (; *count < capacity; ++*count) {
    while (frames_leaving() == 0) {
      if (frames_to_make() == 0) return Status();
      Status status = make_frames();
      // Frames made before the failure are handed over; the next pull meets it again.
      if (!status.ok()) return *count > 0 ? Status() : status;
    }
    if (*count > 0 && queue_.front_generation() != generation) break;
    generation = queue_.front_generation();
    hand_over(frames, *count);
  }
  return Status();
}

void Session::hand_over(const unils_frames& frames, int64_t i) {
  const int64_t index = queue_.front_index();
  float* motion = frames.values + i * frame_values();
  queue_.front(motion);
  for (int face = 0; face < options_.faces; ++face) rig_.clamp(motion + face * rig_.channels());
  if (frames.index != nullptr) frames.index[i] = index;
  if (frames.pts_seconds != nullptr) frames.pts_seconds[i] = static_cast<double>(index) / frame_rate_;
  if (frames.generation != nullptr) frames.generation[i] = queue_.front_generation();
  queue_.pop();
}

static double microseconds_since(std::chrono::steady_clock::time_point began) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - began).count();
}

// The next block of frames; none that is made can leave.
Status Session::make_frames() {
  const auto began = std::chrono::steady_clock::now();
  // Only the last block of a finished session can be cut.
  const int64_t count = std::min<int64_t>(block_frames_, frames_to_make());
  float* motion = scratch_.at<float>(layout_.block);
  UNILS_RETURN_IF_ERROR(maker_->make(queue_.end_index(), &tracks_, motion));
  count_frames(motion, count, microseconds_since(began));
  return Status();
}

Status Session::begin_frame(StepWorkspace& workspace, StepRequest* request) {
  const auto began = std::chrono::steady_clock::now();
  request->motion = scratch_.at<float>(layout_.block);
  UNILS_RETURN_IF_ERROR(maker_->begin(queue_.end_index(), &tracks_, workspace, request));
  begin_microseconds_ = microseconds_since(began);
  return Status();
}

Status Session::end_frame(const StepRequest& request, double microseconds) {
  UNILS_RETURN_IF_ERROR(request.status);
  maker_->end(queue_.end_index(), &tracks_);
  count_frames(request.motion, 1, begin_microseconds_ + microseconds);
  return Status();
}

void Session::count_frames(const float* motion, int64_t count, double microseconds) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t end = (queue_.end_index() + i + 1) * hop_samples_;
    if (clock_mode() == UNILS_CLOCK_OTHER && tracks_.lines[UNILS_TRACK_SELF].front < end) ++silent_own_frames_;
    step_times_.add(microseconds / static_cast<double>(count));
  }
  queue_.push(motion, count, generation_);
}

Status Session::frames_ready(int64_t* count) {
  *count = 0;
  const Pulling pulling(pulling_);
  UNILS_RETURN_IF_ERROR(pulling.status());
  *count = frames_that_can_leave();
  return Status();
}

Status Session::interrupt(int64_t* generation) {
  const Pulling pulling(pulling_);
  UNILS_RETURN_IF_ERROR(pulling.status());
  const int64_t frame = queue_.end_index();
  UNILS_RETURN_IF_ERROR(maker_->forget(UNILS_TRACK_SELF, frame, &tracks_));
  self_.restart();
  tracks_.lines[UNILS_TRACK_SELF].front = frame * hop_samples_;
  *generation = ++generation_;
  return Status();
}

Status Session::finish() {
  const Pulling pulling(pulling_);
  UNILS_RETURN_IF_ERROR(pulling.status());
  if (finished_) return Status();
  const TrackLock lock(self_, other_);
  self_.finish();
  other_.finish();
  finished_ = true;
  return Status();
}

Status Session::reset() {
  const Pulling pulling(pulling_);
  UNILS_RETURN_IF_ERROR(pulling.status());
  const TrackLock lock(self_, other_);
  return start_over();
}

uint64_t Session::options_hash() const {
  Checksum hash;
  const auto add = [&hash](const auto& value) { hash.add(&value, sizeof value); };
  add(clock_mode());
  add(options_.look_ahead_self);
  add(options_.look_ahead_other);
  add(options_.temperature);
  add(options_.top_p);
  add(options_.cfg_scale);
  add(options_.seed);
  add(options_.smoothing);
  add(options_.mode);
  add(block_frames_);
  add(options_.faces);
  add(styled_);
  hash.add(scratch_.at<float>(layout_.styles),
           static_cast<size_t>(options_.style_frames * frame_values()) * sizeof(float));
  return hash.value();
}

Status Session::snapshot(void* buffer, size_t bytes) {
  const Pulling pulling(pulling_);
  UNILS_RETURN_IF_ERROR(pulling.status());
  if (buffer == nullptr || bytes < snapshot_bytes()) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "a snapshot of this session needs a buffer of %zu bytes, not %zu",
                 snapshot_bytes(), bytes);
  }
  const TrackLock lock(self_, other_);
  SessionCounters counters;
  for (const unils_track track : kTracks) {
    tracks_.inputs[track]->save(&counters.inputs[track]);
    counters.lines[track] = tracks_.lines[track];
  }
  counters.queue = queue_.state();
  counters.generation = generation_;
  counters.silent_own_frames = silent_own_frames_;

  SnapshotHeader header;
  header.magic = SnapshotHeader::kMagic;
  header.bytes = snapshot_bytes();
  header.engine_bytes = maker_->engine_bytes();
  header.fingerprint = fingerprint_;
  header.options = options_hash();
  char* body = static_cast<char*>(buffer) + sizeof header;
  std::memcpy(body, &counters, sizeof counters);
  std::memcpy(body + sizeof counters, state_.data(), state_bytes());
  UNILS_RETURN_IF_ERROR(maker_->read_block(body + sizeof counters + state_bytes()));
  Checksum checksum;
  checksum.add(body, body_bytes());
  header.checksum = checksum.value();
  std::memcpy(buffer, &header, sizeof header);
  return Status();
}

Status Session::restore(const void* buffer, size_t bytes) {
  const Pulling pulling(pulling_);
  UNILS_RETURN_IF_ERROR(pulling.status());
  const auto refuse = [](const char* sentence) { return Status(UNILS_ERROR_INVALID_ARGUMENT, sentence); };
  SnapshotHeader header;
  if (buffer == nullptr || bytes < sizeof header) return refuse("these bytes are too few to be a snapshot");
  std::memcpy(&header, buffer, sizeof header);
  if (header.magic != SnapshotHeader::kMagic) return refuse("these bytes are not a snapshot of this version of unils");
  if (header.fingerprint != fingerprint_) return refuse("this snapshot is of a session of another model");
  if (header.options != options_hash()) {
    return refuse("this snapshot is of a session with other options; create the session with the same ones");
  }
  if (header.bytes != snapshot_bytes() || header.engine_bytes != maker_->engine_bytes() || bytes != header.bytes) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "this snapshot has %zu bytes and should have %zu; it was cut or is of "
                 "another build of unils", bytes, snapshot_bytes());
  }
  const char* body = static_cast<const char*>(buffer) + sizeof header;
  Checksum checksum;
  checksum.add(body, bytes - sizeof header);
  SessionCounters counters;
  std::memcpy(&counters, body, sizeof counters);
  if (checksum.value() != header.checksum || !plausible(counters)) return refuse("this snapshot is damaged");

  const TrackLock lock(self_, other_);
  UNILS_RETURN_IF_ERROR(maker_->write_block(body + sizeof counters + state_bytes()));
  std::memcpy(state_.data(), body + sizeof counters, state_bytes());
  for (const unils_track track : kTracks) {
    tracks_.inputs[track]->load(counters.inputs[track]);
    tracks_.lines[track] = counters.lines[track];
  }
  queue_.load(counters.queue);
  generation_ = counters.generation;
  silent_own_frames_ = counters.silent_own_frames;
  finished_ = counters.inputs[UNILS_TRACK_SELF].finished != 0;
  step_times_.reset();
  if (maker_->plausible(queue_.end_index(), tracks_) && queue_.generations_rise_to(generation_)) return Status();
  UNILS_RETURN_IF_ERROR(start_over());
  return refuse("this snapshot contradicts itself; the session was reset");
}

// Whether a session of these options can have these counters.
bool Session::plausible(const SessionCounters& counters) const {
  const bool finished = counters.inputs[UNILS_TRACK_SELF].finished != 0;
  if (!queue_.plausible(counters.queue, finished) || counters.generation < 0) return false;
  const int64_t next = counters.queue.end * hop_samples_;
  for (const unils_track track : kTracks) {
    const TrackLine& line = counters.lines[track];
    if (!TrackInput::plausible(counters.inputs[track])) return false;
    if (line.front < 0 || line.front > next || line.heard < 0) return false;
    if (line.heard > next + (look_ahead(track) + 1) * hop_samples_) return false;
  }
  return counters.inputs[UNILS_TRACK_SELF].finished == counters.inputs[UNILS_TRACK_OTHER].finished;
}

Status Session::get_latency(unils_latency* latency) {
  const Pulling pulling(pulling_);
  UNILS_RETURN_IF_ERROR(pulling.status());
  const double hop_ms = 1000.0 / frame_rate_;
  latency->hop_ms = hop_ms;
  latency->look_ahead_self_ms = hop_ms * options_.look_ahead_self;
  latency->look_ahead_other_ms = hop_ms * options_.look_ahead_other;
  latency->resampler_self_ms = 1000.0 * self_.delay_seconds();
  latency->resampler_other_ms = 1000.0 * other_.delay_seconds();
  latency->block_ms = hop_ms * block_frames_;
  latency->smoothing_ms = smoothing() ? hop_ms * SavitzkyGolay::kDelay : 0.0;
  double track_ms = 0.0;  // of the later of the tracks that are waited for
  if (clock_.waits_for(UNILS_TRACK_SELF)) track_ms = latency->look_ahead_self_ms + latency->resampler_self_ms;
  if (clock_.waits_for(UNILS_TRACK_OTHER)) {
    track_ms = std::max(track_ms, latency->look_ahead_other_ms + latency->resampler_other_ms);
  }
  latency->total_ms = latency->block_ms + track_ms + latency->smoothing_ms;
  return Status();
}

Status Session::get_stats(unils_stats* stats) {
  const Pulling pulling(pulling_);
  UNILS_RETURN_IF_ERROR(pulling.status());
  stats->frames = queue_.end_index();
  stats->step_p50_us = step_times_.percentile(0.50);
  stats->step_p95_us = step_times_.percentile(0.95);
  stats->step_p99_us = step_times_.percentile(0.99);
  stats->samples_self = self_.samples();
  stats->samples_other = other_.samples();
  stats->skew_samples = clock_mode() == UNILS_CLOCK_SELF
                            ? 0
                            : end(UNILS_TRACK_SELF) + self_.pending() - end(UNILS_TRACK_OTHER) - other_.pending();
  stats->refused_samples = self_.refused() + other_.refused();
  stats->silent_own_frames = silent_own_frames_;
  stats->session_bytes = bytes();
  return Status();
}

}  // namespace unils
