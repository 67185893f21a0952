#include "kernels/kernels.h"

#include <algorithm>

#include "kernels/tables.h"

namespace unils {
namespace {

// Width of the panel that starts at output `first`.
int panel_width(const Kernels& kernels, int out, int first) {
  const int left = (out - first + kernels.lanes - 1) / kernels.lanes * kernels.lanes;
  return std::min(kernels.panel, left);
}

}  // namespace

const Kernels* kernels_for(CpuLevel level) {
  switch (level) {
    case CpuLevel::kRef: return &kRefKernels;
#if defined(__x86_64__)
    case CpuLevel::kAvx2: return &kAvx2Kernels;
    case CpuLevel::kAvx512: return &kAvx512Kernels;
#elif defined(__aarch64__)
    case CpuLevel::kNeon: return &kNeonKernels;
#endif
    default: return nullptr;
  }
}

int64_t packed_floats(const Kernels& kernels, int out, int in) {
  int64_t floats = 0;
  for (int first = 0; first < out; first += kernels.panel)
    floats += int64_t{panel_width(kernels, out, first)} * (in + 1);
  return floats;
}

PackedLinear pack_linear(const Kernels& kernels, const float* weight, const float* bias, int out, int in,
                         float* panels) {
  float* at = panels;
  for (int first = 0; first < out; first += kernels.panel) {
    const int width = panel_width(kernels, out, first);
    for (int k = -1; k < in; ++k) {
      for (int column = 0; column < width; ++column) {
        const int o = first + column;
        const float value =
            k < 0 ? (bias != nullptr && o < out ? bias[o] : 0.0f) : (o < out ? weight[int64_t{o} * in + k] : 0.0f);
        *at++ = value;
      }
    }
  }
  return {panels, out, in};
}

}  // namespace unils
