// Status: how every fallible call inside the library ends. Nothing throws across a module's edge; an error is a code of
// the C interface and one sentence that says what was wrong and what to do about it.
#pragma once
#include <string>
#include <utility>

#include "unils/unils.h"

namespace unils {

class [[nodiscard]] Status {
 public:
  Status() noexcept = default;  // success; allocates nothing
  Status(unils_status code, std::string sentence) noexcept : code_(code), sentence_(std::move(sentence)) {}

  bool ok() const noexcept { return code_ == UNILS_OK; }
  unils_status code() const noexcept { return code_; }
  const std::string& sentence() const noexcept { return sentence_; }

 private:
  unils_status code_ = UNILS_OK;
  std::string sentence_;
};

// printf-style: return error(UNILS_ERROR_IO, "%s cannot be opened; check the path", path);
[[gnu::format(printf, 2, 3)]] Status error(unils_status code, const char* format, ...);

// Text from outside, made safe to put in a sentence: control characters become '?', at most 80 bytes are kept.
std::string printable(const std::string& text);

}  // namespace unils

#define UNILS_RETURN_IF_ERROR(expression)                  \
  do {                                                     \
    ::unils::Status unils_status_here = (expression);      \
    if (!unils_status_here.ok()) return unils_status_here; \
  } while (false)
