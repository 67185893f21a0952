// TrackInput: the pushing side of one track, from the caller's samples to the ring: checks, conversion, resampler.
//
// push() belongs to one thread at a time and never waits, allocates or computes a frame. The puller may at any moment
// forget what was pushed (restart): it raises a number, the pusher answers at its next push by restarting the resampler
// and marking where in the ring the new audio begins; until then the puller finds nothing here. So a push in flight
// while the puller restarts counts as pushed before, and neither side waits for the other. What needs both sides still
// (finish, reset, snapshot, restore) takes the track with lock(), which waits for at most one push; a push that finds
// the track so taken takes nothing, as if the ring were full.
#pragma once
#include <atomic>
#include <cstdint>

#include "audio/audio_ring.h"
#include "audio/resampler.h"
#include "core/status.h"

namespace unils {

class TrackInput {
 public:
  // Plain data for snapshots, without padding.
  struct State {
    Resampler::State resampler;
    int64_t read = 0, written = 0;  // of the ring
    int64_t refused = 0;            // samples at the caller's rate
    uint64_t restarts = 0;
    int64_t finished = 0;
  };

  // name: "self" or "other", static. samples: (AudioRing::kCapacity); table: (Resampler::kTableFloats).
  TrackInput(const char* name, float* samples, float* table) : name_(name), ring_(samples), resampler_(table) {}

  // Pusher. *taken <= count samples at the caller's rate; values beyond [-1, 1] are clipped.
  // UNILS_ERROR_BUSY, _STATE (finished), _INVALID_ARGUMENT (rate unlike the first push's), _NOT_FINITE: nothing taken.
  Status push(const void* samples, unils_sample_format format, int64_t count, int rate, int64_t* taken);

  // Puller. Samples that can be looked at, at 16 kHz.
  int64_t available();
  void peek(int64_t offset, int64_t count, float* samples) const { ring_.peek(offset, count, samples); }
  void consume(int64_t count) { ring_.consume(count); }
  // Forgets everything pushed so far that was not consumed.
  void restart();

  // Any thread. Outputs that wait in the resampler; samples pushed since reset, at 16 kHz; delay of the resampler.
  int64_t pending() const;
  int64_t samples() const { return ring_.written() + pending_.load(std::memory_order_relaxed); }
  int64_t refused() const { return refused_.load(std::memory_order_relaxed); }
  double delay_seconds() const { return delay_seconds_.load(std::memory_order_relaxed); }

  // Takes the track from the pusher; waits for a push in flight.
  void lock();
  void unlock();
  // The rest needs lock().
  void finish();  // the resampler's tail goes into the ring; pushes are refused from now on
  void reset();
  void save(State* state);
  // False, and nothing changed, when no session can have written this.
  static bool plausible(const State& state);
  void load(const State& state);

 private:
  enum Owner : int { kNobody, kPusher, kController };

  Status push_owned(const void* samples, unils_sample_format format, int64_t count, int rate, int64_t* taken);
  void answer_restart();
  void publish();

  const char* name_;
  AudioRing ring_;
  Resampler resampler_;
  std::atomic<int> owner_{kNobody};
  std::atomic<uint64_t> restarts_wanted_{0};  // puller
  std::atomic<uint64_t> restarts_done_{0};    // pusher
  int64_t restart_position_ = 0;              // ring position where audio after the last restart begins
  std::atomic<int64_t> pending_{0};
  std::atomic<int64_t> refused_{0};
  std::atomic<double> delay_seconds_{0.0};
  bool finished_ = false;
  float converted_[Resampler::kBlock];
  float resampled_[Resampler::kMaxOutput];
};

// Holds both tracks.
class TrackLock {
 public:
  TrackLock(TrackInput& self, TrackInput& other) : self_(self), other_(other) {
    self_.lock();
    other_.lock();
  }
  ~TrackLock() {
    other_.unlock();
    self_.unlock();
  }
  TrackLock(const TrackLock&) = delete;
  TrackLock& operator=(const TrackLock&) = delete;

 private:
  TrackInput& self_;
  TrackInput& other_;
};

}  // namespace unils
