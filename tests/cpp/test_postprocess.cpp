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

void test_queue_hands_frames_over_in_order(int window, int last) {
  std::vector<float> values(FrameQueue::value_floats(window, 2));
  FrameQueue queue(values.data(), window, 2);
  int64_t made = 0, taken = 0;
  for (int round = 0; round < 5; ++round) {
    const int count = round == 4 ? last : window;  // the last window may be cut
    CHECK(queue.size() == 0 && queue.end_index() == made);
    for (int i = 0; i < count; ++i) queue.back()[2 * i] = static_cast<float>(made + i);
    queue.push(count, round);
    made += count;
    CHECK(queue.end_index() == made);
    for (int i = 0; i < count; ++i) {
      CHECK(queue.size() == count - i);
      CHECK(queue.front()[0] == static_cast<float>(taken));
      CHECK(queue.front_index() == taken && queue.generation() == round);
      CHECK(queue.plausible(queue.state()));
      queue.pop();
      ++taken;
    }
  }
}

void test_queue_knows_which_states_it_cannot_have() {
  std::vector<float> values(FrameQueue::value_floats(10, 1));
  const FrameQueue queue(values.data(), 10, 1);
  const auto plausible = [&](int64_t first, int64_t end, int64_t generation) {
    FrameQueue::State state;
    state.first = first, state.end = end, state.generation = generation;
    return queue.plausible(state);
  };
  CHECK(plausible(0, 0, 0) && plausible(20, 30, 1) && plausible(29, 30, 1) && plausible(30, 33, 0));
  CHECK(!plausible(19, 30, 0));  // of two windows
  CHECK(!plausible(31, 30, 0) && !plausible(-1, 5, 0) && !plausible(0, 5, -1));
}

}  // namespace

int main() {
  test_arkit_shapes_stay_in_0_to_1_and_rotations_in_a_quarter_turn();
  test_another_rig_is_left_as_it_is();
  test_queue_hands_frames_over_in_order(1, 1);
  test_queue_hands_frames_over_in_order(10, 3);
  test_queue_knows_which_states_it_cannot_have();
  return check::result();
}
