// The kernel tables that this build holds.
#pragma once
#include "kernels/kernels.h"

namespace unils {

extern const Kernels kRefKernels;     // kernels/ref/kernels_ref.cpp
extern const Kernels kAvx2Kernels;    // kernels/cpu/kernels_avx2.cpp: AVX2 and FMA
extern const Kernels kAvx512Kernels;  // kernels/cpu/kernels_avx512.cpp: AVX-512 F, BW, DQ and VL
extern const Kernels kNeonKernels;    // kernels/cpu/kernels_neon.cpp

}  // namespace unils
