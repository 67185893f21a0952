#include "model/safetensors.h"

#include <algorithm>
#include <string_view>

#include "model/json.h"

namespace unils {
namespace {

constexpr int64_t kMaxCount = int64_t{1} << 40;

Status bad(const std::string& name, const char* what) {
  return error(UNILS_ERROR_BUNDLE, "the weights file is damaged: tensor %s %s", printable(name).c_str(), what);
}

Status parse_tensor(const std::string& name, const Json& json, int64_t data_start, int64_t data_bytes,
                    TensorView* tensor) {
  tensor->name = name;
  const Json* dtype = json.find("dtype");
  const Json* shape = json.find("shape");
  const Json* offsets = json.find("data_offsets");
  if (dtype == nullptr || shape == nullptr || offsets == nullptr || !shape->is(Json::Kind::kArray) ||
      offsets->array().size() != 2) {
    return bad(name, "has no dtype, shape or data_offsets");
  }
  if (dtype->string() != "F32") {
    return error(UNILS_ERROR_BUNDLE, "tensor %s is of type %s where F32 is needed; export the bundle again",
                 printable(name).c_str(), printable(dtype->string()).c_str());
  }
  tensor->rank = static_cast<int>(shape->array().size());
  if (tensor->rank < 1 || tensor->rank > 2) return bad(name, "has neither one nor two dimensions");
  for (int i = 0; i < tensor->rank; ++i) {
    if (!shape->array()[static_cast<size_t>(i)].integer(1, kMaxCount, &tensor->shape[i])) {
      return bad(name, "has a dimension out of range");
    }
  }
  if (tensor->shape[1] > kMaxCount / tensor->shape[0]) return bad(name, "is too large");
  tensor->count = tensor->shape[0] * tensor->shape[1];
  int64_t begin = 0, end = 0;
  if (!offsets->array()[0].integer(0, data_bytes, &begin) || !offsets->array()[1].integer(begin, data_bytes, &end)) {
    return bad(name, "has data_offsets outside the file");
  }
  if (end - begin != tensor->count * 4) return bad(name, "has data_offsets that do not fit its shape");
  tensor->offset = data_start + begin;
  return Status();
}

}  // namespace

Status parse_safetensors(const char* file, int64_t bytes, std::vector<TensorView>* tensors) {
  constexpr int64_t kLengthBytes = 8;
  if (bytes < kLengthBytes)
    return error(UNILS_ERROR_BUNDLE, "the weights file is truncated: it has %lld bytes", static_cast<long long>(bytes));
  uint64_t header_bytes = 0;
  for (int i = 0; i < kLengthBytes; ++i) header_bytes |= uint64_t{static_cast<unsigned char>(file[i])} << (8 * i);
  if (header_bytes > static_cast<uint64_t>(std::min(kMaxSafetensorsHeader, bytes - kLengthBytes))) {
    return error(UNILS_ERROR_BUNDLE, "the weights file is damaged: its header claims %llu bytes of %lld",
                 static_cast<unsigned long long>(header_bytes), static_cast<long long>(bytes));
  }
  const int64_t data_start = kLengthBytes + static_cast<int64_t>(header_bytes);
  const int64_t data_bytes = bytes - data_start;

  Json header;
  const Status parsed = Json::parse(std::string_view(file + kLengthBytes, static_cast<size_t>(header_bytes)), &header);
  if (!parsed.ok()) return error(UNILS_ERROR_BUNDLE, "the header of the weights file is %s", parsed.sentence().c_str());
  if (!header.is(Json::Kind::kObject)) return error(UNILS_ERROR_BUNDLE, "the header of the weights file is no object");

  tensors->clear();
  for (const Json::Member& member : header.object()) {
    if (member.first == "__metadata__") continue;
    tensors->emplace_back();
    UNILS_RETURN_IF_ERROR(parse_tensor(member.first, member.second, data_start, data_bytes, &tensors->back()));
  }

  std::vector<const TensorView*> by_offset;
  for (const TensorView& tensor : *tensors) by_offset.push_back(&tensor);
  std::sort(by_offset.begin(), by_offset.end(),
            [](const TensorView* a, const TensorView* b) { return a->offset < b->offset; });
  int64_t covered = data_start;
  for (const TensorView* tensor : by_offset) {
    if (tensor->offset < covered) return bad(tensor->name, "overlaps another one");
    if (tensor->offset > covered) return bad(tensor->name, "leaves a gap before it");
    covered += tensor->count * 4;
  }
  if (covered != bytes)
    return error(UNILS_ERROR_BUNDLE, "the weights file is damaged: %lld bytes at its end belong to no tensor",
                 static_cast<long long>(bytes - covered));
  return Status();
}

}  // namespace unils
