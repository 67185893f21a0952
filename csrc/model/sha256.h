// SHA-256 (FIPS 180-4), to tell a damaged or swapped weights file from the one its model.json describes.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace unils {

std::array<uint8_t, 32> sha256(const void* data, size_t bytes);
std::string sha256_text(const std::array<uint8_t, 32>& digest);  // 64 lower-case hex digits

}  // namespace unils
