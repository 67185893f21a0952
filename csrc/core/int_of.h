// int_of: an enumeration that came from C, as the int it is. It can hold any int there, and C++ may not even look at
// one that is not an enumerator.
#pragma once
#include <cstring>

namespace unils {

template <typename Enum>
int int_of(const Enum& value) {
  static_assert(sizeof(Enum) == sizeof(int));
  int result = 0;
  std::memcpy(&result, &value, sizeof result);
  return result;
}

}  // namespace unils
