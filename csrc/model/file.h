// Whole files, read with a bound.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"

namespace unils {

// Reads a regular file of at least min_bytes and at most max_bytes. UNILS_ERROR_IO when it is missing, is no file or
// cannot be read; UNILS_ERROR_BUNDLE when its size is out of bounds (told before anything is allocated).
Status read_file(const std::string& path, int64_t min_bytes, int64_t max_bytes, std::vector<char>* contents);

}  // namespace unils
