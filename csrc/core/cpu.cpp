#include "core/cpu.h"

#include <cstdlib>
#include <cstring>

namespace unils {
namespace {

constexpr CpuLevel kBestFirst[] = {CpuLevel::kAvx512, CpuLevel::kAvx2, CpuLevel::kNeon, CpuLevel::kRef};

}  // namespace

const char* cpu_level_name(CpuLevel level) {
  switch (level) {
    case CpuLevel::kAvx512: return "avx512";
    case CpuLevel::kAvx2: return "avx2";
    case CpuLevel::kNeon: return "neon";
    case CpuLevel::kRef: break;
  }
  return "ref";
}

bool cpu_supports(CpuLevel level) {
  switch (level) {
    case CpuLevel::kRef: return true;
#if defined(__x86_64__)
    case CpuLevel::kAvx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case CpuLevel::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif defined(__aarch64__)
    case CpuLevel::kNeon: return true;  // part of the architecture
#endif
    default: return false;
  }
}

Status choose_cpu_level(CpuLevel* level) {
  const char* pinned = std::getenv("UNILS_CPU");
  if (pinned == nullptr || *pinned == '\0') {
    for (const CpuLevel candidate : kBestFirst) {
      if (cpu_supports(candidate)) {
        *level = candidate;
        return Status();
      }
    }
  }
  for (const CpuLevel candidate : kBestFirst) {
    if (std::strcmp(pinned, cpu_level_name(candidate)) != 0) continue;
    if (!cpu_supports(candidate)) {
      return error(UNILS_ERROR_BACKEND, "UNILS_CPU=%s, but this processor or build cannot run it; unset it or use ref",
                   pinned);
    }
    *level = candidate;
    return Status();
  }
  return error(UNILS_ERROR_BACKEND,
               "UNILS_CPU=%s is not a level that exists; use ref, neon, avx2 or avx512, or unset it",
               printable(pinned).c_str());
}

}  // namespace unils
