// AudioRing: float32 samples at 16 kHz between one pushing and one pulling thread, without a lock.
//
// Positions count samples since reset, in int64, and never wrap. The pusher writes while there is space; the puller may
// look at anything between read and written, in any order, and says what it needs no more.
#pragma once
#include <atomic>
#include <cstdint>

namespace unils {

class AudioRing {
 public:
  static constexpr int64_t kCapacity = 163840;  // 10.24 s
  // Kept free by space(), so that a resampler's tail always fits.
  static constexpr int64_t kReserve = 64;

  // samples: (kCapacity), owned by the caller.
  explicit AudioRing(float* samples) : samples_(samples) {}

  // Pusher.
  int64_t space() const {
    return kCapacity - kReserve - (written_.load(std::memory_order_relaxed) - read_.load(std::memory_order_acquire));
  }
  void write(const float* samples, int64_t count);  // count <= space() + kReserve

  // Puller.
  int64_t available() const {
    return written_.load(std::memory_order_acquire) - read_.load(std::memory_order_relaxed);
  }
  void peek(int64_t offset, int64_t count, float* samples) const;  // offset + count <= an available() seen before
  void consume(int64_t count) { read_.store(read() + count, std::memory_order_release); }

  int64_t written() const { return written_.load(std::memory_order_acquire); }
  int64_t read() const { return read_.load(std::memory_order_acquire); }

  // With neither thread inside: positions from a snapshot, or zero. 0 <= written - read <= kCapacity.
  void set_positions(int64_t read, int64_t written) {
    read_.store(read, std::memory_order_relaxed);
    written_.store(written, std::memory_order_relaxed);
  }

 private:
  float* samples_;
  alignas(64) std::atomic<int64_t> written_{0};
  alignas(64) std::atomic<int64_t> read_{0};
};

}  // namespace unils
