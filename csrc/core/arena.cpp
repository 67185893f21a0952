#include "core/arena.h"

#include <cstring>
#include <new>

namespace unils {

void Arena::Free::operator()(void* block) const { ::operator delete(block, std::align_val_t(kCacheLine)); }

Status Arena::create(size_t bytes, Arena* arena) {
  const size_t size = round_up(bytes == 0 ? 1 : bytes, kCacheLine);
  void* block = ::operator new(size, std::align_val_t(kCacheLine), std::nothrow);
  if (block == nullptr) {
    return error(UNILS_ERROR_OUT_OF_MEMORY, "%zu bytes could not be allocated; free memory or use a smaller model",
                 size);
  }
  std::memset(block, 0, size);
  arena->block_.reset(block);
  arena->bytes_ = size;
  return Status();
}

}  // namespace unils
