// Packer: lays a model's weights out in one block in the order in which a step reads them.
//
// The same build runs twice: first without a block, to add up sizes, then with one, to write.
#pragma once
#include <initializer_list>
#include <string>

#include "core/arena.h"
#include "kernels/kernels.h"
#include "unils/backend.h"

namespace unils {

class Packer {
 public:
  // block: null to measure only. The spec and the kernels must outlive the packer.
  Packer(const unils_model_spec& spec, const Kernels& kernels, float* block)
      : spec_(spec), kernels_(kernels), block_(block) {}

  // Linear layers stacked above each other, all with the same inputs: `names` without ".weight" and ".bias". A bias
  // that the model does not have is zero.
  PackedLinear linear(std::initializer_list<std::string> names) { return linear(names.begin(), names.size()); }
  PackedLinear linear(const std::string* names, size_t count);
  // A copy of a tensor.
  const float* values(const std::string& name);
  // The transpose of a matrix: (columns, rows).
  const float* transposed(const std::string& name);

  const unils_tensor& tensor(const std::string& name) const;  // must exist
  size_t floats() const { return floats_; }                   // so far

 private:
  const unils_tensor* find(const std::string& name) const;
  float* take(size_t floats);  // null when measuring

  const unils_model_spec& spec_;
  const Kernels& kernels_;
  float* block_;
  size_t floats_ = 0;
};

}  // namespace unils
