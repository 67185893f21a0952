// Ring, track input and clock: what fits, what is refused, what is forgotten.
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "audio/audio_ring.h"
#include "audio/track_clock.h"
#include "audio/track_input.h"
#include "check.h"
#include "core/arena.h"

namespace {

using unils::AudioRing;
using unils::Resampler;
using unils::TrackClock;
using unils::TrackInput;

struct Track {
  unils::Arena ring, table;
  std::unique_ptr<TrackInput> input;
  Track() {
    CHECK_OK(unils::Arena::create(AudioRing::kCapacity * sizeof(float), &ring));
    CHECK_OK(unils::Arena::create(Resampler::kTableFloats * sizeof(float), &table));
    input = std::make_unique<TrackInput>("self", ring.at<float>(0), table.at<float>(0));
  }
  int64_t push(const std::vector<float>& samples, int rate = 16000) {
    int64_t taken = 0;
    CHECK_OK(input->push(samples.data(), UNILS_FLOAT32, static_cast<int64_t>(samples.size()), rate, &taken));
    return taken;
  }
  std::vector<float> peek_all() {
    std::vector<float> samples(static_cast<size_t>(input->available()));
    input->peek(0, static_cast<int64_t>(samples.size()), samples.data());
    return samples;
  }
};

std::vector<float> ramp(int64_t count, int64_t first = 0) {
  std::vector<float> samples(static_cast<size_t>(count));
  for (size_t i = 0; i < samples.size(); ++i)
    samples[i] = static_cast<float>((first + static_cast<int64_t>(i)) % 8191) / 8192.0f;
  return samples;
}

void test_ring_keeps_order_over_many_wraps() {
  std::vector<float> memory(AudioRing::kCapacity);
  AudioRing ring(memory.data());
  CHECK(AudioRing::kCapacity - AudioRing::kReserve >= 10 * 16000);
  int64_t written = 0, read = 0;
  const int64_t sizes[] = {1, 640, 100003, 7, 163776, 99};
  for (int round = 0; round < 60; ++round) {
    const int64_t count = std::min(sizes[round % 6], ring.space());
    ring.write(ramp(count, written).data(), count);
    written += count;
    CHECK(ring.available() == written - read);
    const int64_t take = std::min<int64_t>(ring.available(), sizes[(round + 3) % 6]);
    std::vector<float> got(static_cast<size_t>(take));
    ring.peek(0, take, got.data());
    CHECK(got == ramp(take, read));
    ring.consume(take);
    read += take;
  }
  CHECK(written > 3 * AudioRing::kCapacity);
}

void test_a_full_ring_takes_what_fits_and_says_so() {
  for (const int rate : {8000, 16000, 44100, 48000}) {
    Track track;
    const int64_t offered = int64_t{20} * rate;
    const int64_t taken = track.push(ramp(offered), rate);
    CHECK(taken >= int64_t{10} * rate && taken < offered);
    CHECK(track.input->refused() == offered - taken);
    CHECK(track.push(ramp(1000), rate) == 0);
    CHECK(track.input->available() <= AudioRing::kCapacity - AudioRing::kReserve);
    track.input->consume(640);
    const int64_t more = track.push(ramp(3000, taken), rate);
    CHECK(more >= 640 * rate / 16000 - 8 && more <= 640 * rate / 16000 + 8);
  }
}

void test_int16_and_float_and_unaligned_samples_are_the_same_audio() {
  std::vector<int16_t> pcm = {0, 1, -1, 32767, -32768, 12345, -4321};
  std::vector<float> expected;
  for (const int16_t sample : pcm) expected.push_back(static_cast<float>(sample) / 32768.0f);
  Track as_int16;
  int64_t taken = 0;
  std::vector<char> shifted(pcm.size() * 2 + 1);
  std::memcpy(shifted.data() + 1, pcm.data(), pcm.size() * 2);
  CHECK_OK(as_int16.input->push(shifted.data() + 1, UNILS_INT16, 7, 16000, &taken));
  CHECK(taken == 7 && as_int16.peek_all() == expected);
  Track as_float;
  std::vector<char> shifted_float(expected.size() * 4 + 3);
  std::memcpy(shifted_float.data() + 3, expected.data(), expected.size() * 4);
  CHECK_OK(as_float.input->push(shifted_float.data() + 3, UNILS_FLOAT32, 7, 16000, &taken));
  CHECK(taken == 7 && as_float.peek_all() == expected);
}

void test_values_beyond_one_are_clipped_and_denormals_are_silence() {
  Track track;
  track.push({1.5f, -7.0f, 1e-40f, -1e-40f, 1e-10f, std::numeric_limits<float>::max()});
  CHECK(track.peek_all() == (std::vector<float>{1.0f, -1.0f, 0.0f, 0.0f, 1e-10f, 1.0f}));
}

void test_audio_that_is_not_finite_is_refused_whole_and_the_track_goes_on() {
  for (const float bad :
       {std::nanf(""), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    Track track, clean;
    track.push(ramp(5000), 48000);
    clean.push(ramp(5000), 48000);
    std::vector<float> samples = ramp(3000);
    samples[2999] = bad;
    int64_t taken = 1;
    CHECK_ERROR(track.input->push(samples.data(), UNILS_FLOAT32, 3000, 48000, &taken), UNILS_ERROR_NOT_FINITE,
                "sample 2999");
    CHECK(taken == 0);
    track.push(ramp(5000, 5000), 48000);
    clean.push(ramp(5000, 5000), 48000);
    CHECK(track.peek_all() == clean.peek_all());
  }
}

void test_rates_are_checked_and_fixed_by_the_first_samples() {
  Track track;
  int64_t taken = 0;
  const float sample = 0.0f;
  for (const int rate : {0, -16000, 7999, 96001, 2147483647}) {
    CHECK_ERROR(track.input->push(&sample, UNILS_FLOAT32, 1, rate, &taken), UNILS_ERROR_INVALID_ARGUMENT,
                "sample rate");
  }
  CHECK_OK(track.input->push(&sample, UNILS_FLOAT32, 0, 8000, &taken));
  CHECK(track.input->delay_seconds() == 0.0);
  CHECK_OK(track.input->push(&sample, UNILS_FLOAT32, 1, 48000, &taken));
  CHECK(track.input->delay_seconds() > 0.002);
  CHECK_ERROR(track.input->push(&sample, UNILS_FLOAT32, 1, 44100, &taken), UNILS_ERROR_INVALID_ARGUMENT, "48000");
  track.input->lock();
  track.input->reset();
  track.input->unlock();
  CHECK_OK(track.input->push(&sample, UNILS_FLOAT32, 1, 44100, &taken));
}

void test_restart_forgets_what_was_pushed_and_starts_the_resampler_anew() {
  for (const int rate : {8000, 16000, 44100}) {
    Track track, fresh;
    track.push(ramp(rate), rate);
    track.input->consume(640);
    track.input->restart();
    CHECK(track.input->available() == 0);
    CHECK(track.input->pending() == 0);
    track.push(ramp(rate, 77), rate);
    fresh.push(ramp(rate, 77), rate);
    CHECK(track.peek_all() == fresh.peek_all());
    track.input->restart();
    track.input->restart();
    track.push(ramp(rate, 5), rate);
    fresh.input->restart();
    fresh.push(ramp(rate, 5), rate);
    CHECK(track.peek_all() == fresh.peek_all());
  }
}

void test_finish_gives_the_tail_and_refuses_the_rest() {
  for (const int rate : {8000, 16000, 22050, 48000}) {
    Track track;
    const int64_t count = 12345;
    track.push(ramp(count), rate);
    CHECK(track.input->samples() == (count * 16000 + rate - 1) / rate);
    track.input->lock();
    track.input->finish();
    track.input->unlock();
    CHECK(track.input->available() == (count * 16000 + rate - 1) / rate);
    CHECK(track.input->pending() == 0);
    int64_t taken = 0;
    const float sample = 0.0f;
    CHECK_ERROR(track.input->push(&sample, UNILS_FLOAT32, 1, rate, &taken), UNILS_ERROR_STATE, "finished");
  }
  // A full ring still has room for the tail.
  Track full;
  full.push(ramp(20 * 8000), 8000);
  full.input->lock();
  full.input->finish();
  full.input->unlock();
  CHECK(full.input->pending() == 0);
  CHECK(full.input->available() <= AudioRing::kCapacity);
}

void test_a_taken_track_takes_nothing() {
  Track track;
  track.input->lock();
  CHECK(track.push(ramp(100)) == 0);
  CHECK(track.input->refused() == 0);
  track.input->unlock();
  CHECK(track.push(ramp(100)) == 100);
}

void test_clock_modes() {
  const TrackClock both(UNILS_CLOCK_BOTH, 640, 1, 0);
  CHECK(both.frames_reached(640, 640) == 0);
  CHECK(both.frames_reached(1279, 640) == 0);
  CHECK(both.frames_reached(1280, 639) == 0);
  CHECK(both.frames_reached(1280, 640) == 1);
  CHECK(both.frames_reached(64000, 6400) == 10);
  CHECK(both.waits_for(UNILS_TRACK_SELF) && both.waits_for(UNILS_TRACK_OTHER) && both.takes(UNILS_TRACK_OTHER));
  const TrackClock other(UNILS_CLOCK_OTHER, 640, 8, 2);
  CHECK(other.frames_reached(0, 1919) == 0);
  CHECK(other.frames_reached(0, 1920) == 1);
  CHECK(!other.waits_for(UNILS_TRACK_SELF) && other.waits_for(UNILS_TRACK_OTHER) && other.takes(UNILS_TRACK_SELF));
  const TrackClock self(UNILS_CLOCK_SELF, 640, 0, 3);
  CHECK(self.frames_reached(1280, 0) == 2);
  CHECK(self.waits_for(UNILS_TRACK_SELF) && !self.waits_for(UNILS_TRACK_OTHER) && !self.takes(UNILS_TRACK_OTHER));
  CHECK(both.frames_in_all(0, 0) == 0);
  CHECK(both.frames_in_all(1, 0) == 1);
  CHECK(both.frames_in_all(640, 641) == 2);
}

}  // namespace

int main() {
  test_ring_keeps_order_over_many_wraps();
  test_a_full_ring_takes_what_fits_and_says_so();
  test_int16_and_float_and_unaligned_samples_are_the_same_audio();
  test_values_beyond_one_are_clipped_and_denormals_are_silence();
  test_audio_that_is_not_finite_is_refused_whole_and_the_track_goes_on();
  test_rates_are_checked_and_fixed_by_the_first_samples();
  test_restart_forgets_what_was_pushed_and_starts_the_resampler_anew();
  test_finish_gives_the_tail_and_refuses_the_rest();
  test_a_taken_track_takes_nothing();
  test_clock_modes();
  return check::result();
}
