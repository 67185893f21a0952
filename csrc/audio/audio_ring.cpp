#include "audio/audio_ring.h"

#include <cstring>

#include "core/ring.h"

namespace unils {
namespace {

constexpr RingIndex kIndex(AudioRing::kCapacity);

size_t bytes(int64_t samples) { return static_cast<size_t>(samples) * sizeof(float); }

}  // namespace

void AudioRing::write(const float* samples, int64_t count) {
  const int64_t written = written_.load(std::memory_order_relaxed);
  const RingSpans spans = kIndex.spans(written, count);
  std::memcpy(samples_ + spans.older.slot, samples, bytes(spans.older.count));
  std::memcpy(samples_ + spans.newer.slot, samples + spans.older.count, bytes(spans.newer.count));
  written_.store(written + count, std::memory_order_release);
}

void AudioRing::peek(int64_t offset, int64_t count, float* samples) const {
  const RingSpans spans = kIndex.spans(read() + offset, count);
  std::memcpy(samples, samples_ + spans.older.slot, bytes(spans.older.count));
  std::memcpy(samples + spans.older.count, samples_ + spans.newer.slot, bytes(spans.newer.count));
}

}  // namespace unils
