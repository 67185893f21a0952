#include "model/json_section.h"

#include <cstdio>

namespace unils {

Status wrong_key(const std::string& key, const std::string& wanted) {
  return error(UNILS_ERROR_BUNDLE, "model.json: \"%s\" must be %s", key.c_str(), wanted.c_str());
}

Status JsonSection::section(const char* key, JsonSection* inner) const {
  const Json* json = json_->find(key);
  if (json == nullptr || !json->is(Json::Kind::kObject)) return wrong_key(path_ + key, "an object");
  const std::string path = path_ + key + ".";
  inner->json_ = json;
  inner->path_ = path;
  return Status();
}

Status JsonSection::string(const char* key, size_t longest, std::string* value) const {
  const Json* json = json_->find(key);
  if (json == nullptr || !json->is(Json::Kind::kString) || json->string().empty() ||
      json->string().size() > longest || json->string().find('\0') != std::string::npos) {
    return wrong_key(path_ + key, "a text of 1 to " + std::to_string(longest) + " bytes");
  }
  *value = json->string();
  return Status();
}

Status JsonSection::array(const char* key, size_t fewest, size_t most, const std::vector<Json>** value) const {
  const Json* json = json_->find(key);
  if (json == nullptr || !json->is(Json::Kind::kArray) || json->array().size() < fewest ||
      json->array().size() > most) {
    return wrong_key(path_ + key, "a list of " + std::to_string(fewest) + " to " + std::to_string(most) + " values");
  }
  *value = &json->array();
  return Status();
}

Status JsonSection::range_from_zero(const char* key, int64_t highest, int32_t* max) const {
  const Json* json = json_->find(key);
  int64_t zero = 0, last = 0;
  if (json == nullptr || json->array().size() != 2 || !json->array()[0].integer(0, 0, &zero) ||
      !json->array()[1].integer(0, highest, &last)) {
    return wrong_key(path_ + key, "[0, n] with n from 0 to " + std::to_string(highest));
  }
  *max = static_cast<int32_t>(last);
  return Status();
}

Status JsonSection::file_name(const char* key, std::string* value) const {
  UNILS_RETURN_IF_ERROR(string(key, 128, value));
  if (value->find_first_of("/\\:") != std::string::npos || *value == "." || *value == "..") {
    return wrong_key(path_ + key, "a plain file name inside the bundle");
  }
  return Status();
}

Status JsonSection::sha256(const char* key, std::string* value) const {
  UNILS_RETURN_IF_ERROR(string(key, 64, value));
  if (value->size() != 64 || value->find_first_not_of("0123456789abcdef") != std::string::npos) {
    return wrong_key(path_ + key, "64 lower-case hex digits");
  }
  return Status();
}

Status JsonSection::read_integer(const char* key, int64_t lowest, int64_t highest, int64_t* value) const {
  const Json* json = json_->find(key);
  if (json != nullptr && json->integer(lowest, highest, value)) return Status();
  return wrong_key(path_ + key, "a whole number from " + std::to_string(lowest) + " to " + std::to_string(highest));
}

Status JsonSection::read_number(const char* key, double lowest, double highest, double* value) const {
  const Json* json = json_->find(key);
  if (json != nullptr && json->is(Json::Kind::kNumber) && json->number() >= lowest && json->number() <= highest) {
    *value = json->number();
    return Status();
  }
  char wanted[96];
  std::snprintf(wanted, sizeof wanted, "a number from %g to %g", lowest, highest);
  return wrong_key(path_ + key, wanted);
}

}  // namespace unils
