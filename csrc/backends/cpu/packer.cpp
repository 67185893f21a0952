#include "backends/cpu/packer.h"

#include <algorithm>
#include <stdexcept>
#include <string_view>
#include <vector>

namespace unils {

const unils_tensor* Packer::find(const std::string& name) const {
  const unils_tensor* end = spec_.tensors + spec_.tensor_count;
  const unils_tensor* at = std::lower_bound(
      spec_.tensors, end, name,
      [](const unils_tensor& tensor, const std::string& wanted) { return std::string_view(tensor.name) < wanted; });
  return at != end && name == at->name ? at : nullptr;
}

const unils_tensor& Packer::tensor(const std::string& name) const {
  const unils_tensor* found = find(name);
  if (found == nullptr) throw std::out_of_range("the model has no tensor " + name);
  return *found;
}

float* Packer::take(size_t floats) {
  float* at = block_ == nullptr ? nullptr : block_ + floats_;
  floats_ += round_up(floats, kCacheLine / sizeof(float));
  return at;
}

PackedLinear Packer::linear(const std::string* names, size_t count) {
  const int64_t in = tensor(names[0] + ".weight").shape[1];
  int64_t out = 0;
  for (size_t i = 0; i < count; ++i) out += tensor(names[i] + ".weight").shape[0];
  float* at = take(static_cast<size_t>(packed_floats(kernels_, static_cast<int>(out), static_cast<int>(in))));
  if (at == nullptr) return {};

  std::vector<float> weight, bias;
  for (size_t i = 0; i < count; ++i) {
    const unils_tensor& part = tensor(names[i] + ".weight");
    weight.insert(weight.end(), part.values, part.values + part.shape[0] * part.shape[1]);
    const unils_tensor* part_bias = find(names[i] + ".bias");
    if (part_bias != nullptr) bias.insert(bias.end(), part_bias->values, part_bias->values + part.shape[0]);
    bias.resize(weight.size() / static_cast<size_t>(in));
  }
  return pack_linear(kernels_, weight.data(), bias.data(), static_cast<int>(out), static_cast<int>(in), at);
}

const float* Packer::values(const std::string& name) {
  const unils_tensor& source = tensor(name);
  const int64_t count = source.shape[0] * source.shape[1];
  float* at = take(static_cast<size_t>(count));
  if (at != nullptr) std::copy(source.values, source.values + count, at);
  return at;
}

const float* Packer::transposed(const std::string& name) {
  const unils_tensor& source = tensor(name);
  float* at = take(static_cast<size_t>(source.shape[0] * source.shape[1]));
  if (at == nullptr) return nullptr;
  for (int64_t row = 0; row < source.shape[0]; ++row) {
    for (int64_t column = 0; column < source.shape[1]; ++column) {
      at[column * source.shape[0] + row] = source.values[row * source.shape[1] + column];
    }
  }
  return at;
}

}  // namespace unils
