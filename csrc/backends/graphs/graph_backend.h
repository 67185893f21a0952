// The backends of ONNX graphs (docs/onnx.md), run by the host's runner of the same name, one session at a time. State
// blocks lie on the host, and each ring is bound at its own address.
#pragma once
#include "unils/backend.h"

namespace unils {

extern const unils_backend kOnnxRuntimeBackend;
extern const unils_backend kTensorRtBackend;

}  // namespace unils
