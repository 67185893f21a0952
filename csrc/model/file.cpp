#include "model/file.h"

#include <cstdio>
#include <filesystem>
#include <memory>

namespace unils {

Status read_file(const std::string& path, int64_t min_bytes, int64_t max_bytes, std::vector<char>* contents) {
  const std::filesystem::path where(path);
  std::error_code failure;
  if (!std::filesystem::exists(where, failure)) {
    return error(UNILS_ERROR_IO, "%s does not exist; a bundle is a folder with model.json and its weights",
                 path.c_str());
  }
  // Also refuses pipes and devices, on which a read could wait for ever.
  if (!std::filesystem::is_regular_file(where, failure)) {
    return error(UNILS_ERROR_IO, "%s is not a regular file", path.c_str());
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (file == nullptr) return error(UNILS_ERROR_IO, "%s cannot be opened; check its permissions", path.c_str());
  const std::uintmax_t size = std::filesystem::file_size(where, failure);
  if (failure) return error(UNILS_ERROR_IO, "the size of %s cannot be read", path.c_str());
  if (size < static_cast<std::uintmax_t>(min_bytes) || size > static_cast<std::uintmax_t>(max_bytes)) {
    return error(UNILS_ERROR_BUNDLE,
                 "%s has %ju bytes where %lld to %lld are possible; it is damaged or of another model", path.c_str(),
                 size, static_cast<long long>(min_bytes), static_cast<long long>(max_bytes));
  }
  contents->resize(static_cast<size_t>(size));
  if (std::fread(contents->data(), 1, contents->size(), file.get()) != contents->size()) {
    return error(UNILS_ERROR_IO, "%s could not be read to its end", path.c_str());
  }
  return Status();
}

}  // namespace unils
