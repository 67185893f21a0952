#include "postprocess/rig_layout.h"

#include <algorithm>
#include <limits>

namespace unils {
namespace {

bool ends_with(const std::string& text, const std::string& ending) {
  return text.size() >= ending.size() && text.compare(text.size() - ending.size(), ending.size(), ending) == 0;
}

bool is_rotation(const std::string& channel) {
  return ends_with(channel, "Yaw") || ends_with(channel, "Pitch") || ends_with(channel, "Roll");
}

}  // namespace

RigLayout::RigLayout(const std::string& rig, const std::vector<std::string>& channels) {
  constexpr float kQuarterTurn = 1.57079632679489661923f;
  constexpr float kUnbounded = std::numeric_limits<float>::max();
  const bool arkit = rig == "arkit";
  for (const std::string& channel : channels) {
    const bool rotation = is_rotation(channel);
    high_.push_back(!arkit ? kUnbounded : rotation ? kQuarterTurn : 1.0f);
    low_.push_back(arkit && !rotation ? 0.0f : -high_.back());
  }
}

void RigLayout::clamp(float* motion) const {
  for (size_t i = 0; i < low_.size(); ++i) motion[i] = std::min(high_[i], std::max(low_[i], motion[i]));
}

}  // namespace unils
