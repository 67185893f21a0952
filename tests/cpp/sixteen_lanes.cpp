// The vector kernels with registers of 16 floats, played by plain code: what simd_kernels.inc makes of AVX-512's widths
// is tested also where no processor has it.
#include <cmath>
#include <cstring>

#include "kernels/kernels.h"

namespace unils {
namespace {

struct Vec {
  struct Reg {
    float lane[16];
  };
  static constexpr int kLanes = 16;
  static constexpr int kBlockVectors = 4;

  template <typename Of>
  static Reg each(const Of& of) {
    Reg r = {};
    for (int i = 0; i < kLanes; ++i) r.lane[i] = of(i);
    return r;
  }
  static Reg load(const float* p) { return load_n(p, kLanes); }
  static void store(float* p, Reg a) { store_n(p, a, kLanes); }
  static Reg load_n(const float* p, int n) {
    return each([&](int i) { return i < n ? p[i] : 0.0f; });
  }
  static void store_n(float* p, Reg a, int n) {
    for (int i = 0; i < n; ++i) p[i] = a.lane[i];
  }
  static Reg set1(float a) {
    return each([&](int) { return a; });
  }
  static Reg fma(Reg a, Reg b, Reg c) {
    return each([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
  }
  static Reg add(Reg a, Reg b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static Reg sub(Reg a, Reg b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static Reg mul(Reg a, Reg b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static Reg div(Reg a, Reg b) {
    return each([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  static Reg max(Reg a, Reg b) {
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static Reg min(Reg a, Reg b) {
    return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static Reg round(Reg a) {
    return each([&](int i) { return std::nearbyint(a.lane[i]); });
  }
  static Reg power_of_two(Reg n) {
    return each([&](int i) { return std::ldexp(1.0f, static_cast<int>(n.lane[i])); });
  }
  static float sum(Reg a) {
    for (int width = kLanes / 2; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) a.lane[i] += a.lane[i + width];
    }
    return a.lane[0];
  }
  static float highest(Reg a) {
    float most = a.lane[0];
    for (const float value : a.lane) most = value > most ? value : most;
    return most;
  }
};

#include "kernels/cpu/simd_kernels.inc"

}  // namespace

extern const Kernels kSixteenLanes;
const Kernels kSixteenLanes = {CpuLevel::kAvx512, 4 * kLanes, kLanes, linear, layer_norm, gelu, depthwise, attention};

}  // namespace unils
