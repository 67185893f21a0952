// Weights: the tensors that a model of given sizes has, and their values read from a checked weights file.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"
#include "model/published_config.h"
#include "unils/backend.h"

namespace unils {

struct TensorShape {
  std::string name;
  int rank = 0;
  int64_t shape[2] = {0, 1};
  int64_t count() const { return shape[0] * shape[1]; }
};

// Every tensor of docs/stream-model.md, sorted by name.
std::vector<TensorShape> expected_tensors(const unils_stream_sizes& sizes);
// What native code needs of a model whose other weights lie in its graphs (docs/published.md), sorted by name.
std::vector<TensorShape> expected_tensors(const PublishedConfig& sizes);

class Weights {
 public:
  // file: a whole safetensors file; its tensors must be exactly the expected ones and finite.
  static Status read(const std::vector<char>& file, const std::vector<TensorShape>& expected, Weights* weights);
  // Sorted by name; pointers live as long as this.
  const std::vector<unils_tensor>& tensors() const { return tensors_; }
  const float* find(const char* name) const;  // of an expected tensor

 private:
  std::vector<float> values_;
  std::vector<std::string> names_;
  std::vector<unils_tensor> tensors_;
};

}  // namespace unils
