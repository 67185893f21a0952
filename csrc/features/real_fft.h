// RealFft: power spectrum of a real signal whose length is a power of two.
#pragma once
#include <cstddef>
#include <vector>

namespace unils {

class RealFft {
 public:
  explicit RealFft(int size);  // a power of two, 4..65536

  int bins() const { return size_ / 2 + 1; }
  int scratch_floats() const { return size_; }
  // signal: (size); power: (bins), |X_k|^2; scratch: (scratch_floats()).
  void power(const float* signal, float* power, float* scratch) const;
  size_t bytes() const;

 private:
  int size_;
  // Tables are computed in double: the error of a transform is then that of its float sums alone.
  std::vector<int> reversed_;          // (size / 2) bit-reversed order
  std::vector<float> cos_, sin_;       // (size / 2) exp(-2 pi i k / size)
};

}  // namespace unils
