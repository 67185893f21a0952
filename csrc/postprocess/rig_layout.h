// RigLayout: what the numbers of a frame mean, and the range that each may have.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace unils {

class RigLayout {
 public:
  // rig "arkit": blendshapes in [0, 1], rotations (names that end in Yaw, Pitch or Roll) in [-pi/2, pi/2] radians.
  // Any other rig is left as it is.
  RigLayout(const std::string& rig, const std::vector<std::string>& channels);

  int channels() const { return static_cast<int>(low_.size()); }
  // motion: (D), finite.
  void clamp(float* motion) const;
  size_t bytes() const { return (low_.capacity() + high_.capacity()) * sizeof(float); }

 private:
  std::vector<float> low_, high_;
};

}  // namespace unils
