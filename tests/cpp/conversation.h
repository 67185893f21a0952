// Signals and the small verbs that tests of a session are written in.
#pragma once
#include <cstdint>
#include <random>
#include <vector>

#include "check.h"
#include "session/session.h"

namespace unils {

using Samples = std::vector<float>;

// Noise whose loudness wanders, so that every hop sounds different. Within [-1, 1].
inline Samples speech_like(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  Samples samples(static_cast<size_t>(count));
  float gain = 0.3f, low = 0.0f;
  for (size_t i = 0; i < samples.size(); ++i) {
    if (i % 173 == 0) gain = 0.5f * gain + 0.25f * (1.0f + uniform(random)) * 0.5f;
    low = 0.7f * low + 0.3f * uniform(random);
    samples[i] = gain * low;
  }
  return samples;
}

struct Frames {
  int channels = 0;
  std::vector<float> values;
  std::vector<int64_t> index, generation;
  std::vector<double> pts_seconds;
  int64_t count() const { return static_cast<int64_t>(index.size()); }
  float at(int64_t frame, int channel) const { return values[static_cast<size_t>(frame * channels + channel)]; }
  bool operator==(const Frames& other) const {
    return values == other.values && index == other.index && generation == other.generation &&
           pts_seconds == other.pts_seconds;
  }
};

// Offers samples[first, first + count) once; returns how many were taken.
inline int64_t push(Session& session, unils_track track, const Samples& samples, int64_t first, int64_t count,
                    int rate = 16000) {
  int64_t taken = 0;
  CHECK_OK(session.push_audio(track, samples.data() + first, UNILS_FLOAT32, count, rate, &taken));
  return taken;
}
inline int64_t push(Session& session, unils_track track, const Samples& samples, int rate = 16000) {
  return push(session, track, samples, 0, static_cast<int64_t>(samples.size()), rate);
}

// Pulls what is ready, at most `most` frames, `channels` numbers each, and appends it.
inline int64_t pull(Session& session, Frames* frames, int channels, int64_t most = 1000) {
  frames->channels = channels;
  const auto have = frames->index.size();
  const auto room = have + static_cast<size_t>(most);
  frames->values.resize(room * static_cast<size_t>(channels));
  frames->index.resize(room);
  frames->generation.resize(room);
  frames->pts_seconds.resize(room);
  const unils_frames out = {frames->values.data() + have * static_cast<size_t>(channels), frames->index.data() + have,
                            frames->pts_seconds.data() + have, frames->generation.data() + have};
  int64_t count = 0;
  CHECK_OK(session.pull_frames(out, most, &count));
  const auto now = have + static_cast<size_t>(count);
  frames->values.resize(now * static_cast<size_t>(channels));
  frames->index.resize(now);
  frames->generation.resize(now);
  frames->pts_seconds.resize(now);
  return count;
}

// Pushes both tracks to the end, whatever the rings hold, finishes and drains.
inline Frames converse(Session& session, int channels, const Samples& self, int self_rate, const Samples& other,
                       int other_rate) {
  Frames frames;
  int64_t s = 0, o = 0;
  const auto self_count = static_cast<int64_t>(self.size()), other_count = static_cast<int64_t>(other.size());
  while (s < self_count || o < other_count) {
    const int64_t before = s + o;
    s += push(session, UNILS_TRACK_SELF, self, s, self_count - s, self_rate);
    o += push(session, UNILS_TRACK_OTHER, other, o, other_count - o, other_rate);
    const int64_t made = pull(session, &frames, channels);
    if (!CHECK(s + o > before || made > 0)) return frames;
  }
  CHECK_OK(session.finish());
  while (pull(session, &frames, channels) > 0) {
  }
  return frames;
}

}  // namespace unils
