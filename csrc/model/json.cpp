#include "model/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace unils {
namespace {

constexpr int kMaxDepth = 32;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Length of the valid UTF-8 sequence at text[0], 0 when there is none (overlong forms and surrogates are invalid).
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto continues = [&](size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return continues(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    const bool good =
        continues(1) && continues(2) && !(lead == 0xE0 && byte(1) < 0xA0) && !(lead == 0xED && byte(1) > 0x9F);
    return good ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    const bool good = continues(1) && continues(2) && continues(3) && !(lead == 0xF0 && byte(1) < 0x90) &&
                      !(lead == 0xF4 && byte(1) > 0x8F);
    return good ? 4 : 0;
  }
  return 0;
}

void append_utf8(uint32_t code, std::string* out) {
  const auto put = [&](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6), put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 0x3F)), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
  }
}

}  // namespace

class JsonParser {
 public:
  explicit JsonParser(std::string_view text) : text_(text) {}

  Status parse(Json* value) {
    UNILS_RETURN_IF_ERROR(parse_value(value, 0));
    skip_space();
    return at_ == text_.size() ? Status() : bad("there is something after the value");
  }

 private:
  Status bad(const char* what) const { return error(UNILS_ERROR_BUNDLE, "not valid JSON at byte %zu: %s", at_, what); }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char c) {
    if (peek() != c || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }
  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
      ++at_;
  }

  Status parse_value(Json* value, int depth) {
    if (depth > kMaxDepth) return bad("nested deeper than 32");
    skip_space();
    switch (peek()) {
      case '{': return parse_object(value, depth);
      case '[': return parse_array(value, depth);
      case '"': value->kind_ = Json::Kind::kString; return parse_string(&value->string_);
      case 't':
      case 'f': {
        value->kind_ = Json::Kind::kBool;
        value->number_ = peek() == 't' ? 1.0 : 0.0;
        return take("true") || take("false") ? Status() : bad("unknown word");
      }
      case 'n': return take("null") ? Status() : bad("unknown word");
      default: return parse_number(value);
    }
  }

  Status parse_object(Json* value, int depth) {
    value->kind_ = Json::Kind::kObject;
    take('{');
    skip_space();
    if (take('}')) return Status();
    do {
      skip_space();
      if (peek() != '"') return bad("a key in quotes is expected");
      Json::Member member;
      UNILS_RETURN_IF_ERROR(parse_string(&member.first));
      skip_space();
      if (!take(':')) return bad("':' is expected after a key");
      UNILS_RETURN_IF_ERROR(parse_value(&member.second, depth + 1));
      value->object_.push_back(std::move(member));
      skip_space();
    } while (take(','));
    if (!take('}')) return bad("',' or '}' is expected");
    auto& members = value->object_;
    std::sort(members.begin(), members.end(),
              [](const Json::Member& a, const Json::Member& b) { return a.first < b.first; });
    const auto twice =
        std::adjacent_find(members.begin(), members.end(),
                           [](const Json::Member& a, const Json::Member& b) { return a.first == b.first; });
    if (twice == members.end()) return Status();
    return error(UNILS_ERROR_BUNDLE, "not valid JSON: the key \"%s\" appears twice in one object",
                 printable(twice->first).c_str());
  }

  Status parse_array(Json* value, int depth) {
    value->kind_ = Json::Kind::kArray;
    take('[');
    skip_space();
    if (take(']')) return Status();
    do {
      value->array_.emplace_back();
      UNILS_RETURN_IF_ERROR(parse_value(&value->array_.back(), depth + 1));
      skip_space();
    } while (take(','));
    return take(']') ? Status() : bad("',' or ']' is expected");
  }

  Status parse_number(Json* value) {
    value->kind_ = Json::Kind::kNumber;
    const size_t start = at_;
    take('-');
    if (!is_digit(peek())) return bad("a value is expected");
    if (!take('0')) skip_digits();
    if (take('.')) {
      if (!is_digit(peek())) return bad("a digit is expected after the point");
      skip_digits();
    }
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      if (!is_digit(peek())) return bad("a digit is expected in the exponent");
      skip_digits();
    }
    // from_chars: strtod would read the decimal point of the host's locale.
    const auto result = std::from_chars(text_.data() + start, text_.data() + at_, value->number_);
    if (result.ec != std::errc() || !std::isfinite(value->number_)) return bad("a number is too large or too small");
    return Status();
  }
  void skip_digits() {
    while (is_digit(peek())) ++at_;
  }

  Status parse_string(std::string* out) {
    take('"');
    while (!take('"')) {
      if (at_ >= text_.size()) return bad("a string does not end");
      if (static_cast<unsigned char>(peek()) < 0x20) return bad("a control character in a string");
      if (take('\\')) {
        UNILS_RETURN_IF_ERROR(parse_escape(out));
        continue;
      }
      const size_t length = utf8_length(text_.substr(at_));
      if (length == 0) return bad("invalid UTF-8");
      out->append(text_.substr(at_, length));
      at_ += length;
    }
    return Status();
  }

  Status parse_escape(std::string* out) {
    constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
    const char c = peek();
    ++at_;
    if (c != 'u') {
      const size_t i = c == '\0' ? std::string_view::npos : kFrom.find(c);
      if (i == std::string_view::npos) return bad("unknown escape");
      out->push_back(kTo[i]);
      return Status();
    }
    uint32_t code = 0;
    if (!take_hex(&code)) return bad("four hex digits are expected");
    if (code >= 0xD800 && code < 0xDC00) {
      uint32_t low = 0;
      if (!take("\\u") || !take_hex(&low) || low < 0xDC00 || low > 0xDFFF) return bad("half a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code < 0xE000) {
      return bad("half a surrogate pair");
    }
    append_utf8(code, out);
    return Status();
  }
  bool take_hex(uint32_t* code) {
    const std::string_view digits = text_.substr(std::min(at_, text_.size()), 4);
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), *code, 16);
    if (digits.size() != 4 || result.ec != std::errc() || result.ptr != digits.data() + 4) return false;
    at_ += 4;
    return true;
  }

  std::string_view text_;
  size_t at_ = 0;
};

Status Json::parse(std::string_view text, Json* value) {
  *value = Json();
  return JsonParser(text).parse(value);
}

const Json* Json::find(std::string_view key) const {
  const auto at = std::lower_bound(object_.begin(), object_.end(), key,
                                   [](const Member& member, std::string_view wanted) { return member.first < wanted; });
  return at != object_.end() && at->first == key ? &at->second : nullptr;
}

bool Json::integer(int64_t lowest, int64_t highest, int64_t* value) const {
  constexpr double kExact = 9007199254740992.0;  // 2^53: beyond it a double skips whole numbers
  if (kind_ != Kind::kNumber || std::fabs(number_) >= kExact || number_ != std::floor(number_)) return false;
  const auto whole = static_cast<int64_t>(number_);
  if (whole < lowest || whole > highest) return false;
  *value = whole;
  return true;
}

}  // namespace unils
