// RealFft: power spectrum of a real signal whose length is a power of two. In double: it costs what float does at these
// sizes, and a quiet band beside a loud one keeps its digits.
#pragma once
#include <cstddef>
#include <vector>

namespace unils {

class RealFft {
 public:
  explicit RealFft(int size);  // a power of two, 4..65536

  int bins() const { return size_ / 2 + 1; }
  int scratch_doubles() const { return size_; }
  // signal: (size); power: (bins), |X_k|^2; scratch: (scratch_doubles()).
  void power(const double* signal, double* power, double* scratch) const;
  size_t bytes() const;

  // For whoever computes the same elsewhere.
  const std::vector<int>& reversed() const { return reversed_; }
  const std::vector<double>& cosines() const { return cos_; }
  const std::vector<double>& sines() const { return sin_; }

 private:
  int size_;
  std::vector<int> reversed_;       // (size / 2) bit-reversed order
  std::vector<double> cos_, sin_;   // (size / 2) exp(-2 pi i k / size)
};

}  // namespace unils
