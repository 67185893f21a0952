// Files of a bundle, read with a bound.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"

namespace unils {

// Reads a regular file of at least min_bytes and at most max_bytes. UNILS_ERROR_IO when it is missing, is no file or
// cannot be read; UNILS_ERROR_BUNDLE when its size is out of bounds (told before anything is allocated).
Status read_file(const std::string& path, int64_t min_bytes, int64_t max_bytes, std::vector<char>* contents);

// SHA-256 and size of a regular file that may be too large for memory; the same errors.
Status hash_file(const std::string& path, int64_t min_bytes, int64_t max_bytes, std::array<uint8_t, 32>* digest,
                 int64_t* bytes);

}  // namespace unils
