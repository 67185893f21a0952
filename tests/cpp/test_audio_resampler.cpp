// The resampler against what resampler.h promises: exact time, response, delay, independence of cutting.
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "audio/resampler.h"
#include "check.h"
#include "core/arena.h"

namespace {

using unils::Resampler;

constexpr double kPi = 3.14159265358979323846;
constexpr int kRates[] = {8000,  8001,  11025, 12000, 15999, 16000, 16001, 22050, 24000,
                          32000, 37123, 44100, 48000, 88200, 95999, 96000};

struct Fixture {
  unils::Arena table;
  std::unique_ptr<Resampler> resampler;
  explicit Fixture(int rate) {
    CHECK_OK(unils::Arena::create(Resampler::kTableFloats * sizeof(float), &table));
    resampler = std::make_unique<Resampler>(table.at<float>(0));
    resampler->set_rate(rate);
  }
};

// Everything in blocks of at most `block`.
std::vector<float> resample(Resampler& resampler, const std::vector<float>& input, bool flush = false,
                            std::mt19937* random = nullptr) {
  std::vector<float> output;
  float block[Resampler::kMaxOutput];
  for (size_t done = 0; done < input.size();) {
    size_t count = Resampler::kBlock;
    if (random != nullptr) count = std::uniform_int_distribution<size_t>(1, Resampler::kBlock)(*random);
    count = std::min(count, input.size() - done);
    const int made = resampler.process(input.data() + done, static_cast<int>(count), block);
    CHECK(made <= Resampler::kMaxOutput);
    output.insert(output.end(), block, block + made);
    done += count;
  }
  if (flush) output.insert(output.end(), block, block + resampler.flush(block));
  return output;
}

std::vector<float> sine(double hz, int rate, double seconds) {
  std::vector<float> samples(static_cast<size_t>(seconds * rate));
  for (size_t i = 0; i < samples.size(); ++i) {
    samples[i] = static_cast<float>(0.9 * std::sin(2.0 * kPi * hz * static_cast<double>(i) / rate));
  }
  return samples;
}

// Level in dB of output minus the ideal sine at 16 kHz times `gain`, against the sine.
double residual_db(const std::vector<float>& output, double hz, double gain) {
  double error = 0.0, reference = 0.0;
  for (size_t n = 200; n < output.size(); ++n) {
    const double ideal = 0.9 * std::sin(2.0 * kPi * hz * static_cast<double>(n) / 16000.0);
    error += (output[n] - gain * ideal) * (output[n] - gain * ideal);
    reference += ideal * ideal;
  }
  return 10.0 * std::log10(error / reference + 1e-20);
}

void test_a_sine_comes_out_in_its_place_at_every_rate() {
  double worst = -200.0;
  for (const int rate : kRates) {
    const double edge = 0.5 * std::min(rate, 16000) - 550.0;
    for (const double fraction : {0.01, 0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 1.0}) {
      Fixture fixture(rate);
      const double residual =
          residual_db(resample(*fixture.resampler, sine(fraction * edge, rate, 0.25)), fraction * edge, 1.0);
      CHECK(residual < (fraction > 0.9 ? -38.0 : -60.0));  // 0.1 dB of ripple is -38 dB
      if (fraction <= 0.9) worst = std::max(worst, residual);
    }
  }
  std::printf("passband: worst residual up to 0.85 of the edge %.1f dB\n", worst);
}

void test_what_lies_above_half_the_rate_is_removed() {
  double worst = -200.0;
  for (const int rate : kRates) {
    if (rate <= 16800) continue;
    for (double hz = 8400.0; hz < 0.5 * rate; hz += 0.013 * rate) {
      Fixture fixture(rate);
      const auto output = resample(*fixture.resampler, sine(hz, rate, 0.1));
      double power = 0.0;
      for (size_t n = 200; n < output.size(); ++n) power += output[n] * output[n];
      const double level = 10.0 * std::log10(power / static_cast<double>(output.size() - 200) / (0.5 * 0.81) + 1e-20);
      CHECK(level < -65.0);
      worst = std::max(worst, level);
    }
  }
  std::printf("stopband: worst level %.1f dB\n", worst);
}

void test_a_constant_stays_the_constant() {
  for (const int rate : kRates) {
    Fixture fixture(rate);
    const auto output = resample(*fixture.resampler, std::vector<float>(static_cast<size_t>(rate / 10), 0.5f));
    for (size_t n = 100; n < output.size(); ++n) CHECK_NEAR(output[n], 0.5, 1e-6);
  }
}

void test_cutting_does_not_change_a_bit() {
  std::mt19937 random(7);
  for (const int rate : kRates) {
    std::vector<float> input(static_cast<size_t>(rate / 4 + 123));
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    for (float& sample : input) sample = uniform(random);
    Fixture whole(rate);
    const auto expected = resample(*whole.resampler, input, true);
    for (int trial = 0; trial < 3; ++trial) {
      Fixture pieces(rate);
      CHECK(resample(*pieces.resampler, input, true, &random) == expected);
    }
    Fixture again(rate);
    resample(*again.resampler, input);
    again.resampler->restart();
    CHECK(resample(*again.resampler, input, true) == expected);
    CHECK(again.resampler->rate() == rate);
  }
}

void test_flush_gives_every_output_that_the_input_spans() {
  for (const int rate : kRates) {
    for (const int count : {0, 1, 2, 99, 100, 101, 479, 480, 481, rate / 25, rate / 25 + 1}) {
      Fixture fixture(rate);
      const auto output = resample(*fixture.resampler, std::vector<float>(static_cast<size_t>(count), 0.1f), true);
      CHECK(static_cast<int64_t>(output.size()) == (int64_t{count} * 16000 + rate - 1) / rate);
      CHECK(fixture.resampler->pending() == 0);
    }
  }
}

void test_delay_is_what_it_says_and_at_most_4_ms() {
  for (const int rate : kRates) {
    Fixture fixture(rate);
    const double delay = fixture.resampler->delay_seconds();
    CHECK(delay <= 0.0026);
    CHECK(rate != 16000 || delay == 0.0);
    // One sample at a time: output n never comes before its own time nor later than the delay says.
    double latest = 0.0;
    int64_t made = 0;
    float block[Resampler::kMaxOutput];
    for (int64_t i = 0; i < rate / 8; ++i) {
      const float sample = 0.25f;
      const int count = fixture.resampler->process(&sample, 1, block);
      for (int j = 0; j < count; ++j) {
        ++made;
        latest = std::max(latest, static_cast<double>(i + 1) / rate - static_cast<double>(made) / 16000.0);
      }
    }
    CHECK(latest <= delay + 1e-9);
    CHECK(latest >= delay - 1.0 / rate);
  }
}

void test_input_for_fills_the_space_and_no_more() {
  std::mt19937 random(3);
  for (const int rate : kRates) {
    Fixture fixture(rate);
    const std::vector<float> silence(Resampler::kBlock);
    float block[Resampler::kMaxOutput];
    for (int trial = 0; trial < 200; ++trial) {
      const int64_t space = std::uniform_int_distribution<int64_t>(0, 160)(random);
      const int64_t fits = fixture.resampler->input_for(space);
      if (fits > Resampler::kBlock) continue;
      const int made = fixture.resampler->process(silence.data(), static_cast<int>(fits), block);
      CHECK(made <= space);
      // One more sample would be one too many, unless the rate makes outputs rarer than inputs.
      const int more = fixture.resampler->process(silence.data(), 1, block);
      CHECK(made + more > space || more == 0);
      CHECK(fixture.resampler->input_for(0) >= 0);
    }
  }
}

void test_counters_near_2_to_the_31_and_beyond_change_nothing() {
  std::mt19937 random(5);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (const int rate : kRates) {
    std::vector<float> input(static_cast<size_t>(rate / 8));
    for (float& sample : input) sample = uniform(random);
    Fixture near(rate), far(rate);
    const auto first = resample(*near.resampler, input);
    CHECK(resample(*far.resampler, input) == first);
    for (const int64_t seconds : {(int64_t{1} << 31) / 16000, (int64_t{1} << 31) / rate, int64_t{1} << 26}) {
      Fixture jumped(rate);
      resample(*jumped.resampler, input);
      Resampler::State state = jumped.resampler->state();
      state.consumed += seconds * rate;
      state.produced += seconds * 16000;
      jumped.resampler->set_state(state);
      Fixture plain(rate);
      resample(*plain.resampler, input);
      CHECK(resample(*jumped.resampler, input, true) == resample(*plain.resampler, input, true));
    }
  }
}

}  // namespace

int main() {
  test_a_sine_comes_out_in_its_place_at_every_rate();
  test_what_lies_above_half_the_rate_is_removed();
  test_a_constant_stays_the_constant();
  test_cutting_does_not_change_a_bit();
  test_flush_gives_every_output_that_the_input_spans();
  test_delay_is_what_it_says_and_at_most_4_ms();
  test_input_for_fills_the_space_and_no_more();
  test_counters_near_2_to_the_31_and_beyond_change_nothing();
  return check::result();
}
