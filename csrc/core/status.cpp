#include "core/status.h"

#include <cstdarg>
#include <cstdio>

namespace unils {

Status error(unils_status code, const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return Status(code, text);
}

std::string printable(const std::string& text) {
  constexpr size_t kLimit = 80;
  std::string out = text.substr(0, kLimit);
  for (char& c : out) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) c = '?';
  }
  if (text.size() > kLimit) out += "...";
  return out;
}

}  // namespace unils
