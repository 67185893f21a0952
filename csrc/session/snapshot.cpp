#include "session/snapshot.h"

#include <algorithm>
#include <cstring>

namespace unils {

void Checksum::add(const void* data, size_t bytes) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    uint64_t word = 0;
    const size_t count = std::min(bytes, sizeof word);
    std::memcpy(&word, from, count);
    uint64_t mixed = value_ ^ word;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
    value_ = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb + count;
    from += count;
    bytes -= count;
  }
}

}  // namespace unils
