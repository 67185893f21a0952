// Rig ranges, smoothing and the frame queue.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "postprocess/frame_queue.h"
#include "postprocess/rig_layout.h"
#include "postprocess/savitzky_golay.h"

namespace {

using unils::FrameQueue;
using unils::RigLayout;
using unils::SavitzkyGolay;

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

// A channel's values at 9 frames -> those of its smoothed frames.
std::vector<double> smoothed(const std::vector<float>& values) {
  std::array<const float*, SavitzkyGolay::kFrames> frames;
  for (size_t i = 0; i < frames.size(); ++i) frames[i] = &values[i];
  std::vector<double> result;
  for (int at = 0; at < SavitzkyGolay::kFrames; ++at) {
    float value = 0.0f;
    SavitzkyGolay::smooth(frames, at, 1, &value);
    result.push_back(static_cast<double>(value));
  }
  return result;
}

void test_smoothing_is_the_least_squares_cubic() {
  const auto cubic = [](int degree, int i) { return std::pow(i - 4, degree); };
  // Known since the paper: 231 times the middle frame's answer to an impulse.
  const int middle[] = {-21, 14, 39, 54, 59, 54, 39, 14, -21};
  for (int impulse = 0; impulse < 9; ++impulse) {
    std::vector<float> values(9, 0.0f);
    values[static_cast<size_t>(impulse)] = 1.0f;
    const std::vector<double> fit = smoothed(values);
    CHECK_NEAR(fit[4], middle[impulse] / 231.0, 1e-7);
    // The fit is a cubic: it has no fourth difference.
    for (size_t i = 4; i < 9; ++i) {
      CHECK_NEAR(fit[i] - 4 * fit[i - 1] + 6 * fit[i - 2] - 4 * fit[i - 3] + fit[i - 4], 0.0, 1e-6);
    }
    // And the best one: what it leaves over is orthogonal to every cubic.
    for (int degree = 0; degree <= 3; ++degree) {
      double product = -cubic(degree, impulse);
      for (int i = 0; i < 9; ++i) product += cubic(degree, i) * fit[static_cast<size_t>(i)];
      CHECK_NEAR(product, 0.0, 2e-5);
    }
  }
}

// The queue of a session, with the arrays that a session owns.
struct OwnedQueue {
  static constexpr int kChannels = 2;
  std::vector<float> values;
  std::vector<int64_t> generations;
  FrameQueue queue;
  OwnedQueue(int block, bool smoothing)
      : values(FrameQueue::capacity(block, smoothing) * kChannels),
        generations(FrameQueue::capacity(block, smoothing)),
        queue(values.data(), generations.data(), block, kChannels, smoothing) {}
};

float raw(int64_t frame) { return static_cast<float>(std::sin(0.7 * static_cast<double>(frame * frame))); }

// Of a clip of raw() that has `frames`.
float expected(int64_t frame, int64_t frames, bool smoothing) {
  if (!smoothing || frames < 9) return raw(frame);
  const int64_t begin = std::clamp<int64_t>(frame - 4, 0, frames - 9);
  std::vector<float> window;
  for (int64_t i = begin; i < begin + 9; ++i) window.push_back(raw(i));
  return static_cast<float>(smoothed(window)[static_cast<size_t>(frame - begin)]);
}

// Makes frames in blocks and takes them as soon as they can leave.
void test_frames_leave_in_order(int block, bool smoothing, int64_t frames) {
  OwnedQueue owned(block, smoothing);
  FrameQueue& queue = owned.queue;
  int64_t taken = 0;
  for (int64_t made = 0; made < frames;) {
    const int64_t count = std::min<int64_t>(block, frames - made);
    std::vector<float> motion;
    for (int64_t i = made; i < made + count; ++i) motion.insert(motion.end(), {raw(i), static_cast<float>(i)});
    CHECK(queue.end_index() == made);
    queue.push(motion.data(), count, made / block);
    made += count;
    const bool complete = made == frames;
    const int64_t leaving = !smoothing || complete ? made : made < 9 ? 0 : made - 4;
    for (; taken < leaving; ++taken) {
      CHECK(queue.leaving(made, complete) == leaving - taken);
      CHECK(queue.front_index() == taken && queue.front_generation() == taken / block);
      CHECK(queue.plausible(queue.state(), complete) && queue.generations_rise_to((made - 1) / block));
      float motion_of_front[2] = {};
      queue.front(motion_of_front);
      CHECK(motion_of_front[0] == expected(taken, frames, smoothing));
      CHECK_NEAR(motion_of_front[1], static_cast<double>(taken), 1e-4);  // a straight line stays one
      queue.pop();
    }
    CHECK(queue.leaving(made, complete) == 0 && queue.plausible(queue.state(), complete));
  }
}

void test_queue_knows_which_states_it_cannot_have() {
  for (const bool smoothing : {false, true}) {
    OwnedQueue owned(10, smoothing);
    const auto plausible = [&](int64_t first, int64_t end, bool finished = false) {
      FrameQueue::State state;
      state.first = first, state.end = end;
      return owned.queue.plausible(state, finished);
    };
    CHECK(plausible(0, 0) && plausible(20, 30) && plausible(25, 30) && plausible(26, 30));
    CHECK(plausible(30, 33, true) && plausible(33, 33, true));
    CHECK(plausible(19, 30) == smoothing && plausible(16, 30) == smoothing && plausible(27, 30) != smoothing);
    CHECK(!plausible(15, 30) && plausible(27, 30, true));
    CHECK(!plausible(31, 30, true) && !plausible(-1, 5) && !plausible(0, 1000));
    constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
    CHECK(!plausible(kMost, kMost, true) && !plausible(kMost - 4, kMost));
  }
}

void test_generations_rise_to_that_of_the_session() {
  OwnedQueue owned(3, false);
  const float motion[6] = {};
  owned.queue.push(motion, 3, 5);
  CHECK(owned.queue.generations_rise_to(5) && owned.queue.generations_rise_to(6));
  CHECK(!owned.queue.generations_rise_to(4));
  owned.generations[1] = 6;
  CHECK(!owned.queue.generations_rise_to(9));
  owned.generations = {-1, 0, 0};
  CHECK(!owned.queue.generations_rise_to(9));
}

}  // namespace

int main() {
  test_arkit_shapes_stay_in_0_to_1_and_rotations_in_a_quarter_turn();
  test_another_rig_is_left_as_it_is();
  test_smoothing_is_the_least_squares_cubic();
  for (const int block : {1, 2, 3, 4, 5, 8, 9, 10, 25, 100, 400}) {
    for (const int64_t frames : {1, 4, 5, 8, 9, 10, 13, 17, 18, 99, 100, 101, 431}) {
      for (const bool smoothing : {false, true}) test_frames_leave_in_order(block, smoothing, frames);
    }
  }
  test_queue_knows_which_states_it_cannot_have();
  test_generations_rise_to_that_of_the_session();
  return check::result();
}
