// The cpu backend: always there, and what `auto` ends at.
#pragma once
#include "unils/backend.h"

namespace unils {

extern const unils_backend kCpuBackend;

}  // namespace unils
