// Json: a small strict parser (RFC 8259) for text that is not trusted. Refused: nesting deeper than 32, duplicate keys,
// numbers that are not finite, invalid UTF-8 or escapes, anything after the value.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/status.h"

namespace unils {

class Json {
 public:
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };
  using Member = std::pair<std::string, Json>;

  // UNILS_ERROR_BUNDLE with the byte at which the text stops being JSON.
  static Status parse(std::string_view text, Json* value);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool boolean() const { return number_ != 0.0; }
  double number() const { return number_; }
  const std::string& string() const { return string_; }
  const std::vector<Json>& array() const { return array_; }
  const std::vector<Member>& object() const { return object_; }  // sorted by key

  const Json* find(std::string_view key) const;  // nullptr when this is no object or has no such key
  // A whole number in [lowest, highest], exactly; false otherwise.
  bool integer(int64_t lowest, int64_t highest, int64_t* value) const;

 private:
  friend class JsonParser;
  Kind kind_ = Kind::kNull;
  double number_ = 0.0;
  std::string string_;
  std::vector<Json> array_;
  std::vector<Member> object_;
};

}  // namespace unils
