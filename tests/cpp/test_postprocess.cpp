// Rig ranges and the frame queue.
#include <string>
#include <vector>

#include "check.h"
#include "postprocess/frame_queue.h"
#include "postprocess/rig_layout.h"

namespace {

using unils::FrameQueue;
using unils::RigLayout;

void test_arkit_shapes_stay_in_0_to_1_and_rotations_in_a_quarter_turn() {
  const RigLayout rig("arkit", {"jawOpen", "tongueOut", "headYaw", "headPitch", "headRoll"});
  CHECK(rig.channels() == 5);
  std::vector<float> motion = {-0.1f, 1.7f, 9.0f, -9.0f, 0.3f};
  rig.clamp(motion.data());
  CHECK(motion[0] == 0.0f && motion[1] == 1.0f && motion[4] == 0.3f);
  CHECK_NEAR(motion[2], 1.5707963, 1e-6);
  CHECK_NEAR(motion[3], -1.5707963, 1e-6);
}

void test_another_rig_is_left_as_it_is() {
  const RigLayout rig("flame", {"expression0", "jaw"});
  std::vector<float> motion = {-7.5f, 123.0f};
  rig.clamp(motion.data());
  CHECK(motion[0] == -7.5f && motion[1] == 123.0f);
}

void test_queue_hands_frames_over_in_order() {
  std::vector<float> values(FrameQueue::value_floats(2));
  FrameQueue queue(values.data(), 2);
  int64_t made = 0, taken = 0;
  for (int round = 0; round < 50; ++round) {
    while (!queue.full()) {
      CHECK(queue.end_index() == made);
      queue.back()[0] = static_cast<float>(made);
      queue.push(made / 10);
      ++made;
    }
    CHECK(queue.size() == FrameQueue::kCapacity);
    for (int i = 0; i <= round % 4; ++i) {
      CHECK(queue.front()[0] == static_cast<float>(taken));
      CHECK(queue.front_index() == taken && queue.front_generation() == taken / 10);
      queue.pop();
      ++taken;
    }
  }
  FrameQueue::State state = queue.state();
  CHECK(FrameQueue::plausible(state));
  state.end = state.first + FrameQueue::kCapacity + 1;
  CHECK(!FrameQueue::plausible(state));
}

}  // namespace

int main() {
  test_arkit_shapes_stay_in_0_to_1_and_rotations_in_a_quarter_turn();
  test_another_rig_is_left_as_it_is();
  test_queue_hands_frames_over_in_order();
  return check::result();
}
