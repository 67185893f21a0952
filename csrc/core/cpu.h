// Which vector instructions this processor has, and which of them to use.
#pragma once
#include "core/status.h"

namespace unils {

enum class CpuLevel { kRef = 0, kNeon, kAvx2, kAvx512 };

const char* cpu_level_name(CpuLevel level);  // "ref", "neon", "avx2", "avx512"; static
bool cpu_supports(CpuLevel level);           // compiled in, and the processor and system can run it

// The best level that runs here, or the one that the environment variable UNILS_CPU (ref, neon, avx2 or avx512) pins.
// UNILS_ERROR_BACKEND when what it pins is unknown or cannot run here.
Status choose_cpu_level(CpuLevel* level);

}  // namespace unils
