// The vector kernels for NEON (AArch64): registers of 4 floats.
#include <arm_neon.h>

#include "kernels/tables.h"

namespace unils {
namespace {

struct Vec {
  using Reg = float32x4_t;
  static constexpr int kLanes = 4;
  static constexpr int kBlockVectors = 4;  // of outputs, with six rows of sums: there are 32 registers

  static Reg load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, Reg a) { vst1q_f32(p, a); }
  static Reg load_n(const float* p, int n) {
    float some[kLanes] = {};
    for (int i = 0; i < kLanes - 1; ++i) some[i] = i < n ? p[i] : 0.0f;
    return vld1q_f32(some);
  }
  static void store_n(float* p, Reg a, int n) {
    float some[kLanes];
    vst1q_f32(some, a);
    for (int i = 0; i < kLanes - 1; ++i) {
      if (i < n) p[i] = some[i];
    }
  }
  static Reg set1(float a) { return vdupq_n_f32(a); }
  static Reg fma(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }
  static Reg add(Reg a, Reg b) { return vaddq_f32(a, b); }
  static Reg sub(Reg a, Reg b) { return vsubq_f32(a, b); }
  static Reg mul(Reg a, Reg b) { return vmulq_f32(a, b); }
  static Reg div(Reg a, Reg b) { return vdivq_f32(a, b); }
  static Reg max(Reg a, Reg b) { return vmaxq_f32(a, b); }
  static Reg min(Reg a, Reg b) { return vminq_f32(a, b); }
  static Reg round(Reg a) { return vrndnq_f32(a); }
  // 2^n for whole n in -126..127
  static Reg power_of_two(Reg n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
  }
  static float sum(Reg a) { return vaddvq_f32(a); }
  static float highest(Reg a) { return vmaxvq_f32(a); }
};

#include "kernels/cpu/simd_kernels.inc"

}  // namespace

const Kernels kNeonKernels = {CpuLevel::kNeon, 4 * kLanes, kLanes, linear, layer_norm, gelu, depthwise, attention};

}  // namespace unils
