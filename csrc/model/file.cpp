#include "model/file.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "model/sha256.h"

namespace unils {

namespace {

using OpenFile = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

Status open_file(const std::string& path, int64_t min_bytes, int64_t max_bytes, OpenFile* file, size_t* bytes) {
  const std::filesystem::path where(path);
  std::error_code failure;
  if (!std::filesystem::exists(where, failure)) {
    return error(UNILS_ERROR_IO, "%s does not exist; a bundle is a folder with model.json and the files it names",
                 path.c_str());
  }
  // Also refuses pipes and devices, on which a read could wait for ever.
  if (!std::filesystem::is_regular_file(where, failure)) {
    return error(UNILS_ERROR_IO, "%s is not a regular file", path.c_str());
  }
  file->reset(std::fopen(path.c_str(), "rb"));
  if (*file == nullptr) return error(UNILS_ERROR_IO, "%s cannot be opened; check its permissions", path.c_str());
  const std::uintmax_t size = std::filesystem::file_size(where, failure);
  if (failure) return error(UNILS_ERROR_IO, "the size of %s cannot be read", path.c_str());
  if (size < static_cast<std::uintmax_t>(min_bytes) || size > static_cast<std::uintmax_t>(max_bytes)) {
    return error(UNILS_ERROR_BUNDLE,
                 "%s has %ju bytes where %lld to %lld are possible; it is damaged or of another model", path.c_str(),
                 size, static_cast<long long>(min_bytes), static_cast<long long>(max_bytes));
  }
  *bytes = static_cast<size_t>(size);
  return Status();
}

Status cut_short(const std::string& path) {
  return error(UNILS_ERROR_IO, "%s could not be read to its end", path.c_str());
}

}  // namespace

Status read_file(const std::string& path, int64_t min_bytes, int64_t max_bytes, std::vector<char>* contents) {
  OpenFile file(nullptr, std::fclose);
  size_t bytes = 0;
  UNILS_RETURN_IF_ERROR(open_file(path, min_bytes, max_bytes, &file, &bytes));
  contents->resize(bytes);
  if (std::fread(contents->data(), 1, bytes, file.get()) != bytes) return cut_short(path);
  return Status();
}

Status hash_file(const std::string& path, int64_t min_bytes, int64_t max_bytes, std::array<uint8_t, 32>* digest,
                 int64_t* bytes) {
  OpenFile file(nullptr, std::fclose);
  size_t size = 0;
  UNILS_RETURN_IF_ERROR(open_file(path, min_bytes, max_bytes, &file, &size));
  std::vector<char> piece(size_t{1} << 20);
  Sha256 hash;
  for (size_t left = size; left > 0;) {
    const size_t count = std::min(left, piece.size());
    if (std::fread(piece.data(), 1, count, file.get()) != count) return cut_short(path);
    hash.add(piece.data(), count);
    left -= count;
  }
  *digest = hash.digest();
  *bytes = static_cast<int64_t>(size);
  return Status();
}

}  // namespace unils
