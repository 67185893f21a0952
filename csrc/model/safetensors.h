// Reader of the safetensors format: 8 bytes of header length (little-endian), a JSON header, then the tensors' bytes.
// Only float32 tensors of one or two dimensions. The bytes of the tensors must cover the rest of the file exactly.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"

namespace unils {

struct TensorView {
  std::string name;
  int rank = 0;               // 1 or 2
  int64_t shape[2] = {0, 1};  // shape[1] is 1 for a vector
  int64_t offset = 0;         // bytes from the start of the file; not aligned
  int64_t count = 0;          // float32 values
};

constexpr int64_t kMaxSafetensorsHeader = int64_t{1} << 20;

// Tensors sorted by name. UNILS_ERROR_BUNDLE names what does not add up.
Status parse_safetensors(const char* file, int64_t bytes, std::vector<TensorView>* tensors);

}  // namespace unils
