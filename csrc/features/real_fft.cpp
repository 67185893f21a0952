#include "features/real_fft.h"

#include <cmath>
#include <cstddef>
#include <utility>

namespace unils {

RealFft::RealFft(int size) : size_(size) {
  const int half = size / 2;
  for (int k = 0; k < half; ++k) {
    const double angle = -2.0 * 3.14159265358979323846 * k / size;
    cos_.push_back(std::cos(angle));
    sin_.push_back(std::sin(angle));
    int reversed = 0;
    for (int bit = 1, mirror = half / 2; bit < half; bit *= 2, mirror /= 2) {
      if ((k & bit) != 0) reversed |= mirror;
    }
    reversed_.push_back(reversed);
  }
}

size_t RealFft::bytes() const {
  return reversed_.capacity() * sizeof(int) + (cos_.capacity() + sin_.capacity()) * sizeof(double);
}

void RealFft::power(const double* signal, double* power, double* scratch) const {
  // Even samples are the real parts, odd ones the imaginary parts of a complex transform of half the size; its result
  // is then taken apart (Numerical Recipes, "FFT of single real function").
  const int half = size_ / 2;
  double* re = scratch;
  double* im = scratch + half;
  for (int i = 0; i < half; ++i) {
    re[reversed_[static_cast<size_t>(i)]] = signal[2 * i];
    im[reversed_[static_cast<size_t>(i)]] = signal[2 * i + 1];
  }
  for (int length = 2; length <= half; length *= 2) {
    const int stride = size_ / length;  // of the twiddles: exp(-2 pi i k / length)
    for (int start = 0; start < half; start += length) {
      for (int k = 0; k < length / 2; ++k) {
        const double c = cos_[static_cast<size_t>(k * stride)];
        const double s = sin_[static_cast<size_t>(k * stride)];
        const int a = start + k;
        const int b = a + length / 2;
        const double x = re[b] * c - im[b] * s;
        const double y = re[b] * s + im[b] * c;
        re[b] = re[a] - x;
        im[b] = im[a] - y;
        re[a] += x;
        im[a] += y;
      }
    }
  }
  power[0] = (re[0] + im[0]) * (re[0] + im[0]);
  power[half] = (re[0] - im[0]) * (re[0] - im[0]);
  for (int k = 1; k < half; ++k) {
    const int mirror = half - k;
    const double even_re = 0.5 * (re[k] + re[mirror]);
    const double even_im = 0.5 * (im[k] - im[mirror]);
    const double odd_re = 0.5 * (im[k] + im[mirror]);
    const double odd_im = 0.5 * (re[mirror] - re[k]);
    const double c = cos_[static_cast<size_t>(k)];
    const double s = sin_[static_cast<size_t>(k)];
    const double x = even_re + odd_re * c - odd_im * s;
    const double y = even_im + odd_re * s + odd_im * c;
    power[k] = x * x + y * y;
  }
}

}  // namespace unils
