// Resampler: one track from any integer rate of 8000..96000 Hz to 16000 Hz, in pieces of any size.
//
// A windowed sinc (Kaiser) of half width floor(rate / 400) input samples, at most 2.5 ms. Output sample n lies at input
// time n / 16000 s exactly: positions are rational numbers in int64, so nothing drifts and nothing is shifted; an
// output only waits until the half width behind it has arrived. Samples before the first are zero. An output is a sum
// over the same inputs in the same order however the input was cut, so pieces give bitwise what the whole gives. At
// 16000 Hz samples pass through untouched and at once.
//
// Response: within 0.1 dB up to 0.5 min(rate, 16000) - 550 Hz, more than 65 dB down from 0.5 min(rate, 16000) + 400 Hz.
// (The 400 Hz lie above the highest mel filter, so what folds there is not heard by the model.)
#pragma once
#include <cstddef>
#include <cstdint>

namespace unils {

class Resampler {
 public:
  static constexpr int kOutputRate = 16000;  // Hz
  static constexpr int kMinRate = 8000;
  static constexpr int kMaxRate = 96000;
  static constexpr int kBlock = 1024;           // most input samples of one process()
  static constexpr int kMaxOutput = 2 * kBlock + 2;  // most output samples of one process() or flush()
  static constexpr int kMaxTaps = 480;          // 2 * 96000 / 400, a multiple of kLanes
  static constexpr size_t kTableFloats = 40960;  // coefficients: 160 KiB

  // All that changes with the audio; plain data without padding, so that a snapshot can copy it.
  struct State {
    int64_t rate = 0;      // Hz; 0 until set_rate
    int64_t consumed = 0;  // input samples since restart
    int64_t produced = 0;  // output samples since restart
    float history[kMaxTaps] = {};  // the last inputs, newest last
  };

  // table: (kTableFloats), 64-byte aligned, owned by the caller, derived from the rate alone.
  explicit Resampler(float* table) : table_(table) {}

  static bool supports(int64_t rate) { return rate >= kMinRate && rate <= kMaxRate; }

  // Fixes the rate and restarts; builds the table (a few milliseconds at most, no allocation). supports(rate).
  void set_rate(int rate);
  // Forgets the audio, keeps the rate.
  void restart();
  // Forgets audio and rate.
  void reset() { state_ = State(); }
  int rate() const { return static_cast<int>(state_.rate); }

  // Delay of one output in seconds, worst case: from the end of the output sample to the end of the input it waits for.
  double delay_seconds() const;
  // Most input samples that may be given now so that no more than `space` outputs come.
  int64_t input_for(int64_t space) const;
  // Outputs that the inputs so far span but that still wait for input.
  int64_t pending() const { return spanned() - state_.produced; }

  // input: (count <= kBlock), finite; output: room for kMaxOutput. Returns how many came.
  int process(const float* input, int count, float* output);
  // Ends the audio: what waited comes, with silence behind the last input. pending() outputs, fewer than kMaxOutput.
  int flush(float* output);

  const State& state() const { return state_; }
  // Whether a resampler can be in this state. Counters are bounded too, so that no position overflows.
  static bool plausible(const State& state);
  // A plausible state, from a snapshot; rebuilds the table when the rate is another.
  void set_state(const State& state);

 private:
  static constexpr int kLanes = 8;

  // Half width in input samples.
  static constexpr int64_t half_width(int64_t rate) { return rate == kOutputRate ? 0 : rate / 400; }

  int64_t spanned() const;  // outputs whose time lies before the end of the input
  void build_table();

  float* table_;
  State state_;
  // Derived from the rate.
  int table_rate_ = 0;
  int64_t up_ = 1, down_ = 1;  // output n lies at input position n * down / up
  int half_ = 0;               // half width, input samples
  int taps_ = 0;               // 2 * half rounded up to kLanes; the extra ones are the oldest, and zero
  int64_t phases_ = 1;         // rows of the table; fewer than up_ means interpolation between neighbours
  float buffer_[kMaxTaps + kBlock];
};

}  // namespace unils
