// Arena: one flat, zeroed, 64-byte aligned block that holds everything a session changes, so a snapshot is a memcpy.
// First an ArenaLayout adds up the parts (each starts on a cache line), then one Arena of that size is made.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

#include "core/status.h"

namespace unils {

constexpr size_t kCacheLine = 64;

constexpr size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

class ArenaLayout {
 public:
  // Offset in bytes of `count` objects of T, aligned to a cache line.
  template <typename T>
  size_t add(size_t count) {
    static_assert(std::is_trivially_copyable_v<T>, "an arena is copied as bytes");
    static_assert(alignof(T) <= kCacheLine);
    const size_t offset = bytes_;
    bytes_ += round_up(count * sizeof(T), kCacheLine);
    return offset;
  }
  size_t bytes() const { return bytes_; }  // a multiple of kCacheLine

 private:
  size_t bytes_ = 0;
};

template <typename T>
T* arena_at(void* base, size_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(base) + offset);
}
template <typename T>
const T* arena_at(const void* base, size_t offset) {
  return reinterpret_cast<const T*>(static_cast<const char*>(base) + offset);
}

class Arena {
 public:
  Arena() = default;
  // Zeroed memory. UNILS_ERROR_OUT_OF_MEMORY when there is not that much.
  static Status create(size_t bytes, Arena* arena);

  // The block for a caller that frees it by adopting it again.
  void* release() { return block_.release(); }
  static void adopt(void* block) { Free()(block); }

  void* data() { return block_.get(); }
  const void* data() const { return block_.get(); }
  size_t bytes() const { return bytes_; }
  template <typename T>
  T* at(size_t offset) {
    return arena_at<T>(block_.get(), offset);
  }
  template <typename T>
  const T* at(size_t offset) const {
    return arena_at<T>(block_.get(), offset);
  }

 private:
  struct Free {
    void operator()(void* block) const;
  };
  std::unique_ptr<void, Free> block_;
  size_t bytes_ = 0;
};

}  // namespace unils
