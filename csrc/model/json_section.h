// JsonSection: one object of model.json, read key by key. Its name is only for sentences; every reader checks what it
// reads against bounds that the caller gives.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"
#include "model/json.h"

namespace unils {

// "model.json: "key" must be wanted"
Status wrong_key(const std::string& key, const std::string& wanted);

class JsonSection {
 public:
  explicit JsonSection(const Json* json = nullptr) : json_(json) {}

  bool has(const char* key) const { return json_->find(key) != nullptr; }
  Status section(const char* key, JsonSection* inner) const;
  // 1 to `longest` bytes without a null character
  Status string(const char* key, size_t longest, std::string* value) const;
  Status array(const char* key, size_t fewest, size_t most, const std::vector<Json>** value) const;
  // "[0, n]" with n <= highest
  Status range_from_zero(const char* key, int64_t highest, int32_t* max) const;
  // A file of the bundle, by its plain name: no folders.
  Status file_name(const char* key, std::string* value) const;
  // 64 lower-case hex digits
  Status sha256(const char* key, std::string* value) const;

  template <typename T>
  Status integer(const char* key, int64_t lowest, int64_t highest, T* value) const {
    int64_t whole = 0;
    UNILS_RETURN_IF_ERROR(read_integer(key, lowest, highest, &whole));
    *value = static_cast<T>(whole);
    return Status();
  }
  template <typename T>
  Status number(const char* key, double lowest, double highest, T* value) const {
    double read = 0.0;
    UNILS_RETURN_IF_ERROR(read_number(key, lowest, highest, &read));
    *value = static_cast<T>(read);
    return Status();
  }

 private:
  Status read_integer(const char* key, int64_t lowest, int64_t highest, int64_t* value) const;
  Status read_number(const char* key, double lowest, double highest, double* value) const;

  const Json* json_;
  std::string path_;
};

}  // namespace unils
