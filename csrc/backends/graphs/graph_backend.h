// The backend of ONNX graphs (docs/onnx.md), run by the host's runner, one session at a time. State blocks lie on the
// host, and each ring is bound at its own address.
#pragma once
#include "unils/backend.h"

namespace unils {

extern const unils_backend kOnnxRuntimeBackend;

}  // namespace unils
