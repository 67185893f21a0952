// SHA-256 (FIPS 180-4), to tell a damaged or swapped weights file from the one its model.json describes.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace unils {

// Of what is handed over in pieces of any size.
class Sha256 {
 public:
  void add(const void* data, size_t bytes);
  std::array<uint8_t, 32> digest();  // once, at the end

 private:
  uint32_t hash_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t block_[64] = {};
  uint64_t bytes_ = 0;
};

std::array<uint8_t, 32> sha256(const void* data, size_t bytes);
std::string sha256_text(const std::array<uint8_t, 32>& digest);  // 64 lower-case hex digits

}  // namespace unils
