// The vector kernels for AVX-512: registers of 16 floats.
#include <immintrin.h>

// GCC 12 warns of its own header's deliberately undefined operands (its bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "kernels/tables.h"

namespace unils {
namespace {

struct Vec {
  using Reg = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kBlockVectors = 4;  // of outputs, with six rows of sums: there are 32 registers
  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Reg a) { _mm512_storeu_ps(p, a); }
  static Reg load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store_n(float* p, Reg a, int n) { _mm512_mask_storeu_ps(p, first(n), a); }
  static Reg set1(float a) { return _mm512_set1_ps(a); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
  static Reg round(Reg a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // 2^n for whole n in -126..127
  static Reg power_of_two(Reg n) {
    const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
  }
  static float sum(Reg a) { return _mm512_reduce_add_ps(a); }
  static float highest(Reg a) { return _mm512_reduce_max_ps(a); }
};

#include "kernels/cpu/simd_kernels.inc"

}  // namespace

const Kernels kAvx512Kernels = {CpuLevel::kAvx512, 4 * kLanes, kLanes, linear, layer_norm, gelu, depthwise, attention};

}  // namespace unils
