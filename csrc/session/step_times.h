// StepTimes: how long the last frames took to make. It measures; no frame depends on it.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace unils {

class StepTimes {
 public:
  static constexpr int64_t kCapacity = 4096;
  static constexpr size_t kFloats = 2 * kCapacity;

  StepTimes() = default;
  // times: (kFloats), owned by the caller; the second half is scratch for percentiles.
  explicit StepTimes(float* times) : times_(times) {}

  void reset() { count_ = 0; }
  void add(double microseconds) { times_[count_++ % kCapacity] = static_cast<float>(microseconds); }
  // Smallest time that `fraction` of the kept times do not exceed; 0 before the first.
  double percentile(double fraction) {
    const int64_t kept = std::min(count_, kCapacity);
    if (kept == 0) return 0.0;
    float* sorted = times_ + kCapacity;
    std::copy(times_, times_ + kept, sorted);
    const auto rank = static_cast<int64_t>(fraction * static_cast<double>(kept - 1) + 0.5);
    std::nth_element(sorted, sorted + rank, sorted + kept);
    return sorted[rank];
  }

 private:
  float* times_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace unils
