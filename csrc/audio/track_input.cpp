#include "audio/track_input.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

namespace unils {
namespace {

// Callers' buffers need not be aligned.
template <typename T>
T load(const void* samples, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(samples) + static_cast<size_t>(index) * sizeof(T), sizeof(T));
  return value;
}

// Index of the first sample that is NaN or infinite, or -1.
int64_t first_not_finite(const void* samples, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(load<float>(samples, i))) return i;
  }
  return -1;
}

void convert(const void* samples, unils_sample_format format, int64_t first, int count, float* out) {
  if (format == UNILS_INT16) {
    for (int i = 0; i < count; ++i) out[i] = static_cast<float>(load<int16_t>(samples, first + i)) * (1.0f / 32768.0f);
    return;
  }
  // Below -300 dB is silence: products of such numbers are denormal and would slow the filters down.
  constexpr float kSilence = 1e-15f;
  for (int i = 0; i < count; ++i) {
    const float value = std::min(1.0f, std::max(-1.0f, load<float>(samples, first + i)));
    out[i] = std::fabs(value) < kSilence ? 0.0f : value;
  }
}

}  // namespace

Status TrackInput::push(const void* samples, unils_sample_format format, int64_t count, int rate, int64_t* taken) {
  *taken = 0;
  int owner = kNobody;
  if (!owner_.compare_exchange_strong(owner, kPusher, std::memory_order_acquire)) {
    if (owner == kController) return Status();
    return error(UNILS_ERROR_BUSY, "another thread is pushing to track %s; give each track one pushing thread", name_);
  }
  Status status = push_owned(samples, format, count, rate, taken);
  owner_.store(kNobody, std::memory_order_release);
  return status;
}

Status TrackInput::push_owned(const void* samples, unils_sample_format format, int64_t count, int rate,
                              int64_t* taken) {
  if (finished_) {
    return error(UNILS_ERROR_STATE, "the session is finished and takes no more audio; reset it to start again");
  }
  if (!Resampler::supports(rate)) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "sample rate %d is not supported; it can be %d to %d Hz", rate,
                 Resampler::kMinRate, Resampler::kMaxRate);
  }
  if (resampler_.rate() != 0 && rate != resampler_.rate()) {
    return error(UNILS_ERROR_INVALID_ARGUMENT,
                 "track %s is at %d Hz since its first push and cannot change to %d Hz; reset the session first", name_,
                 resampler_.rate(), rate);
  }
  if (format == UNILS_FLOAT32) {
    const int64_t index = first_not_finite(samples, count);
    if (index >= 0) {
      return error(UNILS_ERROR_NOT_FINITE,
                   "sample %lld of this push to track %s is NaN or infinite; nothing of the push was taken",
                   static_cast<long long>(index), name_);
    }
  }
  answer_restart();
  if (count == 0) return Status();
  if (resampler_.rate() == 0) resampler_.set_rate(rate);
  while (*taken < count) {
    const int64_t fits = std::min({count - *taken, int64_t{Resampler::kBlock}, resampler_.input_for(ring_.space())});
    if (fits <= 0) break;
    convert(samples, format, *taken, static_cast<int>(fits), converted_);
    ring_.write(resampled_, resampler_.process(converted_, static_cast<int>(fits), resampled_));
    *taken += fits;
  }
  refused_.fetch_add(count - *taken, std::memory_order_relaxed);
  publish();
  return Status();
}

void TrackInput::answer_restart() {
  const uint64_t wanted = restarts_wanted_.load(std::memory_order_acquire);
  if (wanted == restarts_done_.load(std::memory_order_relaxed)) return;
  resampler_.restart();
  restart_position_ = ring_.written();
  publish();
  restarts_done_.store(wanted, std::memory_order_release);
}

void TrackInput::publish() {
  pending_.store(resampler_.pending(), std::memory_order_relaxed);
  delay_seconds_.store(resampler_.delay_seconds(), std::memory_order_relaxed);
}

int64_t TrackInput::available() {
  // Counted before the answer is looked for, so that what an unanswered restart discards is old for certain.
  const int64_t available = ring_.available();
  if (restarts_done_.load(std::memory_order_acquire) != restarts_wanted_.load(std::memory_order_relaxed)) {
    ring_.consume(available);
    return 0;
  }
  ring_.consume(std::max<int64_t>(0, restart_position_ - ring_.read()));
  return ring_.available();
}

void TrackInput::restart() {
  // Counted before the request: the pusher may answer it and add new audio at once, and that must stay.
  const int64_t before = ring_.available();
  restarts_wanted_.fetch_add(1, std::memory_order_release);
  ring_.consume(before);
}

int64_t TrackInput::pending() const {
  const uint64_t done = restarts_done_.load(std::memory_order_acquire);
  return done == restarts_wanted_.load(std::memory_order_relaxed) ? pending_.load(std::memory_order_relaxed) : 0;
}

void TrackInput::lock() {
  int owner = kNobody;
  while (!owner_.compare_exchange_weak(owner, kController, std::memory_order_acquire)) {
    owner = kNobody;
    // Asleep, not yielding: a pusher of lower priority must get the processor to end its push.
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

void TrackInput::unlock() { owner_.store(kNobody, std::memory_order_release); }

void TrackInput::finish() {
  answer_restart();
  ring_.write(resampled_, resampler_.flush(resampled_));
  finished_ = true;
  publish();
}

void TrackInput::reset() { load(State()); }

void TrackInput::save(State* state) {
  answer_restart();
  state->resampler = resampler_.state();
  state->read = ring_.read();
  state->written = ring_.written();
  state->refused = refused_.load(std::memory_order_relaxed);
  state->restarts = restarts_wanted_.load(std::memory_order_relaxed);
  state->finished = finished_ ? 1 : 0;
}

bool TrackInput::plausible(const State& state) {
  // Far beyond any session's life, and small enough that no sum of positions overflows.
  constexpr int64_t kMostSamples = int64_t{1} << 46;
  const auto counts = [](int64_t value) { return value >= 0 && value <= kMostSamples; };
  return Resampler::plausible(state.resampler) && counts(state.read) && counts(state.written) &&
         counts(state.refused) && state.written >= state.read && state.written - state.read <= AudioRing::kCapacity &&
         (state.finished == 0 || state.finished == 1);
}

void TrackInput::load(const State& state) {
  resampler_.set_state(state.resampler);
  ring_.set_positions(state.read, state.written);
  refused_.store(state.refused, std::memory_order_relaxed);
  restarts_wanted_.store(state.restarts, std::memory_order_relaxed);
  restarts_done_.store(state.restarts, std::memory_order_relaxed);
  restart_position_ = state.read;
  finished_ = state.finished != 0;
  publish();
}

}  // namespace unils
