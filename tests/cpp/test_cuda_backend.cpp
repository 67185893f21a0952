// The cuda backend against the cpu backend, and what backend.h promises of any. On the device that is played on the
// host (tests/cpp/cuda_on_host) sizes are small; on a real one, as large as they get.
#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "backends/cpu/cpu_backend.h"
#include "cuda_driver.h"

using namespace unils;

namespace {

#if defined(UNILS_CUDA_ON_HOST)
constexpr int kMostSessions = 37, kReplays = 60;
#else
// compute-sanitizer makes kernels some hundred times slower.
const bool kSmall = std::getenv("UNILS_TEST_SMALL") != nullptr;
const int kMostSessions = kSmall ? 37 : 4097, kReplays = kSmall ? 60 : 10000;
#endif
// Sums come in another order; what is compared are numbers of size 1.
constexpr float kMotionTolerance = 1e-4f, kLogitTolerance = 2e-4f;

const unils_backend& cuda_backend() { return *unils_backend_plugin(UNILS_BACKEND_VERSION); }

std::vector<Talk> talks_of(int count) {
  std::vector<Talk> talks;
  for (int i = 0; i < count; ++i) talks.push_back(talk_of(i));
  return talks;
}
std::vector<int> all_of(int count) {
  std::vector<int> named(static_cast<size_t>(count));
  std::iota(named.begin(), named.end(), 0);
  return named;
}

// Random, and of odd sizes.
const BundleWriter& bundle() {
  static const BundleWriter the_bundle;
  return the_bundle;
}

void check_near(const Made& a, const Made& b, float factor = 1.0f) {
  CHECK_NEAR(furthest(a.motion, b.motion), 0.0f, kMotionTolerance * factor);
  CHECK_NEAR(furthest(a.logits, b.logits), 0.0f, kLogitTolerance * factor);
}

// Frames that two backends made of session `i`. Where a draw falls otherwise though its logits are near, they were a tie
// to within rounding: `cpu` goes on from there as `cuda` did, and `ties` counts it.
void check_frame(Sessions* cuda, Sessions* cpu, int i, const Made& made, const Made& expected, int* ties) {
  const std::vector<float> bits = cuda->bits(i), expected_bits = cpu->bits(i);
  if (bits == expected_bits) return check_near(made, expected);
  const auto other = std::mismatch(bits.begin(), bits.end(), expected_bits.begin()).first - bits.begin();
  for (size_t bit = 0; bit <= static_cast<size_t>(other); ++bit) {
    CHECK_NEAR(made.logits[bit], expected.logits[bit], kLogitTolerance);
  }
  ++*ties;
  cpu->take_over(i, cuda);
}

void test_the_entry_knows_its_version() {
  CHECK(unils_backend_plugin(UNILS_BACKEND_VERSION + 1) == nullptr);
  CHECK(unils_backend_plugin(UNILS_BACKEND_VERSION)->version == UNILS_BACKEND_VERSION);
  CHECK(std::string(cuda_backend().name) == "cuda");
}

// Over several wraps of every ring, sessions joining, leaving and starting again at random.
void test_frames_equal_those_of_the_cpu_backend() {
  constexpr int kSessions = 7;
  for (const bool hops : {true, false}) {
    Sessions cuda(cuda_backend(), bundle(), talks_of(kSessions), hops);
    Sessions cpu(kCpuBackend, bundle(), talks_of(kSessions), false);
    std::mt19937 random(5);
    int ties = 0;
    for (int round = 0; round < (hops ? 90 : 12); ++round) {
      std::vector<int> named;
      for (int i = 0; i < kSessions; ++i) {
        if (i == 0 || random() % 4 != 0) named.push_back(i);
      }
      std::shuffle(named.begin(), named.end(), random);
      const std::vector<Made> made = cuda.step(named), expected = cpu.step(named);
      for (size_t n = 0; n < named.size(); ++n) check_frame(&cuda, &cpu, named[n], made[n], expected[n], &ties);
      if (random() % 8 == 0) {
        const int leaves = 1 + static_cast<int>(random() % (kSessions - 1));
        cuda.reset(leaves), cpu.reset(leaves);
      }
    }
    CHECK(cuda.frame(0) > (hops ? 80 : 10));
    CHECK(ties <= 1);
  }
}

// Sizes as models have them: that of the bundled one, and one whose heads take more shared memory than every kernel may.
void test_models_of_other_sizes() {
  unils_stream_sizes bundled = tiny_sizes(), wide = tiny_sizes();
  bundled.audio_width = 160, bundled.audio_depth = 3, bundled.audio_kernel = 5;
  bundled.codec_width = 128, bundled.codec_depth = 3, bundled.codec_kernel = 5, bundled.codec_expansion = 2;
  bundled.bits = 24, bundled.levels = 4;
  bundled.width = 160, bundled.depth = 3, bundled.heads = 5, bundled.feed_forward = 640, bundled.head_width = 256;
  bundled.window_frames = 128, bundled.audio_window_frames = 64, bundled.style_tokens = 16;
  wide.width = 600, wide.heads = 1, wide.head_width = 2100, wide.depth = 1, wide.window_frames = 4000;
  wide.style_tokens = 20, wide.feed_forward = 40;
  for (const unils_stream_sizes& sizes : {bundled, wide}) {
    const BundleWriter model(sizes);
    Sessions cuda(cuda_backend(), model, talks_of(3), true);
    Sessions cpu(kCpuBackend, model, talks_of(3), false);
    for (int frame = 0; frame < 3; ++frame) {
      const std::vector<Made> made = cuda.step({2, 0, 1}), expected = cpu.step({2, 0, 1});
      for (size_t i = 0; i < made.size(); ++i) check_near(made[i], expected[i], 2.0f);
    }
  }
}

// Every batch size up to the largest: each session is, bit for bit, what it is alone, whichever kernels a batch takes.
void test_a_frame_does_not_depend_on_who_shares_the_batch() {
  Sessions together(cuda_backend(), bundle(), talks_of(kMostSessions), true);
  Sessions alone(cuda_backend(), bundle(), talks_of(kMostSessions), true);
  std::mt19937 random(6);
  for (const int count : {kMostSessions, 1, 2, 3, 8, 9, 17, 33, kMostSessions - 1, kMostSessions}) {
    std::vector<int> named = all_of(kMostSessions);
    std::shuffle(named.begin(), named.end(), random);
    named.resize(static_cast<size_t>(count));
    const std::vector<Made> made = together.step(named);
    for (size_t n = 0; n < named.size(); n += 1 + named.size() / 16) {
      // What was missed while others stepped is made up for.
      Made last;
      while (alone.frame(named[n]) < together.frame(named[n])) last = alone.step({named[n]})[0];
      CHECK(last.motion == made[n].motion);
      CHECK(last.logits == made[n].logits);
      CHECK(alone.block(named[n]) == together.block(named[n]));
    }
  }
}

std::vector<Made> conversation(const std::vector<Talk>& talks, int frames, std::vector<char>* block) {
  Sessions sessions(cuda_backend(), bundle(), talks, true);
  std::vector<Made> all;
  for (int frame = 0; frame < frames; ++frame) {
    for (Made& made : sessions.step(all_of(sessions.count()))) all.push_back(std::move(made));
  }
  *block = sessions.block(0);
  return all;
}
bool same(const std::vector<Made>& a, const std::vector<Made>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Made& left, const Made& right) {
    return left.motion == right.motion && left.logits == right.logits;
  });
}

void test_graphs_change_nothing() {
  std::vector<char> with_block, without_block;
  const std::vector<Made> with = conversation(talks_of(5), 20, &with_block);
  setenv("UNILS_CUDA_GRAPHS", "0", 1);
  const std::vector<Made> without = conversation(talks_of(5), 20, &without_block);
  unsetenv("UNILS_CUDA_GRAPHS");
  CHECK(!with.empty() && same(with, without));
  CHECK(with_block == without_block);
}

void test_frames_are_the_same_in_any_order_of_threads() {
  std::vector<char> block, other_block;
  const std::vector<Made> in_order = conversation(talks_of(18), 5, &block);
  for (const unsigned seed : {1u, 77u}) {
    permute_threads(seed);
    const std::vector<Made> permuted = conversation(talks_of(18), 5, &other_block);
    permute_threads(0);
    CHECK(!in_order.empty() && same(in_order, permuted));
    CHECK(block == other_block);
  }
}

void test_replays_do_not_drift_from_a_lone_session() {
  Sessions cuda(cuda_backend(), bundle(), talks_of(1), true);
  Sessions cpu(kCpuBackend, bundle(), talks_of(1), false);
  int ties = 0;
  for (int frame = 0; frame < kReplays; ++frame) {
    check_frame(&cuda, &cpu, 0, cuda.step({0})[0], cpu.step({0})[0], &ties);
  }
  CHECK(ties <= 1 + kReplays / 1000);
}

void test_a_session_goes_on_on_another_backend() {
  Sessions cuda(cuda_backend(), bundle(), talks_of(6), true);
  Sessions cpu(kCpuBackend, bundle(), talks_of(6), false), reference(kCpuBackend, bundle(), talks_of(6), false);
  const std::vector<int> all = all_of(6);
  const auto go_on = [&](Sessions* on, int frames) {
    for (int frame = 0; frame < frames; ++frame) {
      const std::vector<Made> made = on->step(all), expected = reference.step(all);
      for (size_t i = 0; i < all.size(); ++i) check_near(made[i], expected[i]);
    }
  };
  go_on(&cuda, 21);
  for (const int i : all) cpu.take_over(i, &cuda);
  go_on(&cpu, 20);
  for (const int i : all) cuda.take_over(i, &cpu);
  go_on(&cuda, 20);
  for (const int i : all) {
    Sessions* const from = &cuda;
    const std::vector<char> before = cuda.block(i);
    cuda.take_over(i, from);
    CHECK(cuda.block(i) == before);
  }
}

// One frame each from the same states: tensor cores round what they multiply to 11 and to 8 bits.
void test_half_precision_is_near() {
  constexpr int kSessions = 20;
  Sessions cpu(kCpuBackend, bundle(), talks_of(kSessions), false);
  const std::vector<int> all = all_of(kSessions);
  for (int frame = 0; frame < 18; ++frame) cpu.step(all);
  struct Case {
    unils_precision precision;
    float tolerance;
  };
  Sessions fp16(cuda_backend(), bundle(), talks_of(kSessions), true, UNILS_FP16);
  Sessions bf16(cuda_backend(), bundle(), talks_of(kSessions), true, UNILS_BF16);
  Sessions lone(cuda_backend(), bundle(), talks_of(kSessions), true, UNILS_BF16);
  for (const int i : all) {
    fp16.take_over(i, &cpu);
    bf16.take_over(i, &cpu);
    lone.take_over(i, &cpu);
  }
  const std::vector<Made> expected = cpu.step(all), in_fp16 = fp16.step(all), in_bf16 = bf16.step(all);
  const int bits = cpu.sizes.levels * cpu.sizes.bits, level = cpu.sizes.bits;
  float most_fp16 = 0.0f, most_bf16 = 0.0f;
  for (size_t i = 0; i < all.size(); ++i) {
    // The first level's logits depend on no bit of this frame, which may fall otherwise.
    for (int bit = 0; bit < bits && bit < level; ++bit) {
      const auto at = static_cast<size_t>(bit);
      most_fp16 = std::max(most_fp16, std::fabs(in_fp16[i].logits[at] - expected[i].logits[at]));
      most_bf16 = std::max(most_bf16, std::fabs(in_bf16[i].logits[at] - expected[i].logits[at]));
    }
    CHECK(lone.step({all[i]})[0].logits == in_bf16[i].logits);
  }
  CHECK_NEAR(most_fp16, 0.0f, 0.01f);
  CHECK_NEAR(most_bf16, 0.0f, 0.08f);
  CHECK(most_fp16 > 0.0f && most_bf16 > most_fp16);
}

void test_a_call_may_hold_rows_or_steps_alone_or_nothing() {
  Sessions cuda(cuda_backend(), bundle(), talks_of(3), true);
  unils_sentence why = {};
  CHECK(cuda.backend.run(cuda.model, cuda.workspace, nullptr, 0, nullptr, 0, &why) == UNILS_OK);
  // Look-aheads of a few rows make calls of rows alone; then a frame whose rows have all been heard needs none.
  const std::vector<Made> made = cuda.step({0, 1, 2});
  Sessions again(cuda_backend(), bundle(), talks_of(3), true);
  CHECK(same(made, again.step({0, 1, 2})));
  CHECK(cuda.backend.workspace_bytes(cuda.workspace) > 0);
  CHECK(cuda.backend.weight_bytes(cuda.model) > 0);
}

void test_frames_are_put_on_the_device_for_renderers() {
  Sessions cuda(cuda_backend(), bundle(), talks_of(1), true);
  const std::vector<float> frames = random_floats(110, 3);
  unils_device_array array = {};
  cuda.ok(cuda.backend.device_put(cuda.model, frames.data(), 110, &array, &cuda.why));
  CHECK(array.device_type == 2 && array.device_id == 0);
  std::vector<float> there(frames.size());
  CHECK_CUDA(cudaMemcpy(there.data(), array.data, there.size() * sizeof(float), cudaMemcpyDeviceToHost));
  CHECK(there == frames);
  cuda.backend.device_free(cuda.model, array.data);
}

void test_workspaces_of_a_model_serve_threads_at_once() {
  constexpr int kThreads = 3, kFrames = 6;
  Sessions together(cuda_backend(), bundle(), talks_of(kThreads), true);
  Sessions alone(cuda_backend(), bundle(), talks_of(kThreads), true);
  std::vector<Made> made[kThreads];
  unils_status worst[kThreads] = {};
  std::vector<std::thread> callers;
  for (int i = 0; i < kThreads; ++i) {
    callers.emplace_back([&together, &made, &worst, i] {
      unils_backend_workspace* workspace = nullptr;
      unils_sentence why = {};
      worst[i] = together.backend.workspace_create(together.model, 1, &workspace, &why);
      for (int frame = 0; frame < kFrames && worst[i] == UNILS_OK; ++frame) {
        std::vector<Made> frames;
        worst[i] = together.step({i}, &frames, workspace);
        made[i].push_back(frames[0]);
      }
      together.backend.workspace_free(workspace);
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (int i = 0; i < kThreads; ++i) {
    std::vector<Made> expected;
    for (int frame = 0; frame < kFrames; ++frame) expected.push_back(alone.step({i})[0]);
    CHECK(worst[i] == UNILS_OK && same(made[i], expected));
  }
}

#if defined(UNILS_CUDA_ON_HOST)
using cuda_on_host::counts;

void test_a_step_neither_allocates_nor_launches_kernels_one_by_one() {
  Sessions cuda(cuda_backend(), bundle(), talks_of(5), true);
  cuda.step(all_of(5));
  const auto before = counts();
  for (int i = 0; i < 10; ++i) cuda.step(all_of(5));
  CHECK(counts().allocations == before.allocations);
  CHECK(counts().launches > before.launches);
  // Two calls to find the device, two of copying in, graphs, copies out, one wait: nothing that grows with the model.
  CHECK(counts().calls - before.calls <= 10 * 12);
}

void test_a_gpu_that_cannot_serve_scores_0_and_says_why() {
  unils_sentence detail = {};
  CHECK(cuda_backend().score(&detail) == 30 && std::string(detail.text) == "CUDA on the host, sm_90, 4 GB");
  cuda_on_host::set_device(0, 9);
  CHECK(cuda_backend().score(&detail) == 0 && std::string(detail.text).find("no CUDA-capable device") != std::string::npos);
  cuda_on_host::set_device(1, 7);
  CHECK(cuda_backend().score(&detail) == 0 && std::string(detail.text).find("7.0") != std::string::npos);
  cuda_on_host::set_device(1, 9);
  cuda_on_host::fail(1, cudaErrorInsufficientDriver);
  CHECK(cuda_backend().score(&detail) == 0 && std::string(detail.text).find("driver") != std::string::npos);
}

// A call that fails says so, and the sessions go on as if it had not been made.
void test_any_call_may_fail_and_sessions_go_on() {
  const std::vector<Talk> talks = talks_of(4);
  Sessions expected(cuda_backend(), bundle(), talks, true);
  Sessions cuda(cuda_backend(), bundle(), talks, true);
  const std::vector<int> all = all_of(4);
  int failed = 0;
  for (int n = 1; n <= 12; ++n) {
    cuda_on_host::fail(n, n % 2 == 0 ? cudaErrorMemoryAllocation : cudaErrorIllegalAddress);
    std::vector<Made> made;
    const unils_status status = cuda.step(all, &made);
    const bool hit = status != UNILS_OK;
    cuda_on_host::fail(0);
    failed += hit;
    if (hit) {
      const bool memory = std::string(cuda.why.text).find("memory") != std::string::npos;
      CHECK(status == UNILS_ERROR_OUT_OF_MEMORY || status == UNILS_ERROR_BACKEND);
      CHECK(memory && std::string(cuda.why.text).find("GPU") != std::string::npos);
      // Whoever did not take part goes on.
      cuda.reset(3), expected.reset(3);
      CHECK(cuda.step({3})[0].motion == expected.step({3})[0].motion);
      // So does who did, from a state that is known.
      for (const int i : all) cuda.reset(i), expected.reset(i);
    } else {
      CHECK(same(made, expected.step(all)));
    }
  }
  CHECK(failed >= 5);
  CHECK(same(cuda.step(all), expected.step(all)));
}

// Each of the calls that make something, failing in turn: an error, nothing lost, nothing left behind.
void test_making_anything_may_fail() {
  unils_sentence why = {};
  int refused = 0;
  const auto held = [] { return counts().blocks_held + counts().objects_held; };
  std::vector<unils_tensor> tensors;
  for (const BundleWriter::Tensor& tensor : bundle().tensors) {
    tensors.push_back({tensor.shape.name.c_str(), tensor.values.data(), {tensor.shape.shape[0], tensor.shape.shape[1]}});
  }
  unils_model_spec spec = {};
  spec.sizes = &bundle().sizes, spec.features = &kFeatures, spec.gains = bundle().gains.data();
  spec.tensors = tensors.data(), spec.tensor_count = static_cast<int32_t>(tensors.size()), spec.threads = 1;
  const auto fails_cleanly = [&](const auto& make) {
    for (int n = 1; n < 4000; ++n) {
      const int64_t before = held();
      cuda_on_host::fail(n, n % 3 == 0 ? cudaErrorNoKernelImageForDevice : cudaErrorMemoryAllocation);
      const unils_status status = make();
      cuda_on_host::fail(0);
      if (status == UNILS_OK) return CHECK(n > 3);
      ++refused;
      CHECK(status == UNILS_ERROR_OUT_OF_MEMORY || status == UNILS_ERROR_BACKEND);
      CHECK(held() == before);
      if (n > 40) n += 17;  // most of them are launches of kernels
    }
    return CHECK(!"every call failed");
  };
  unils_backend_model* model = nullptr;
  fails_cleanly([&] { return cuda_backend().model_create(&spec, &model, &why); });
  unils_backend_workspace* workspace = nullptr;
  fails_cleanly([&] { return cuda_backend().workspace_create(model, 3, &workspace, &why); });
  void* states = nullptr;
  fails_cleanly([&] { return cuda_backend().states_create(model, 3, &states, &why); });
  CHECK(refused > 20);

  cuda_on_host::limit_memory(1 << 20);
  void* more = nullptr;
  CHECK(cuda_backend().states_create(model, 1000, &more, &why) == UNILS_ERROR_OUT_OF_MEMORY);
  CHECK(std::string(why.text) == "the GPU has not enough memory for that many sessions; close sessions, or use a smaller batch");
  cuda_on_host::limit_memory(0);
  cuda_backend().states_free(model, states);
  cuda_backend().workspace_free(workspace);
  cuda_backend().model_free(model);
}

void test_a_lost_device_is_an_error_of_every_call_and_no_crash() {
  const int64_t before = counts().blocks_held + counts().objects_held;
  {
    Sessions cuda(cuda_backend(), bundle(), talks_of(2), true);
    cuda.step({0, 1});
    cuda_on_host::fail(6, cudaErrorIllegalAddress, true);
    std::vector<Made> made;
    for (int i = 0; i < 3; ++i) CHECK(cuda.step({0, 1}, &made) == UNILS_ERROR_BACKEND);
    CHECK(std::string(cuda.why.text).find("an illegal memory access") != std::string::npos);
    std::vector<char> block(cuda.layout.bytes);
    CHECK(cuda.backend.state_read(cuda.model, cuda.state(0), block.data(), &cuda.why) == UNILS_ERROR_BACKEND);
    CHECK(cuda.backend.reset(cuda.model, cuda.state(0), &cuda.why) == UNILS_ERROR_BACKEND);
  }
  cuda_on_host::fail(0);
  CHECK(counts().blocks_held + counts().objects_held == before);
}
#endif

}  // namespace

int main() {
#if !defined(UNILS_CUDA_ON_HOST)
  unils_sentence detail = {};
  if (cuda_backend().score(&detail) == 0) {
    std::printf("skipped: %s\n", detail.text);
    return 77;
  }
#endif
  test_the_entry_knows_its_version();
  test_frames_equal_those_of_the_cpu_backend();
  test_models_of_other_sizes();
  test_a_frame_does_not_depend_on_who_shares_the_batch();
  test_graphs_change_nothing();
  test_frames_are_the_same_in_any_order_of_threads();
  test_replays_do_not_drift_from_a_lone_session();
  test_a_session_goes_on_on_another_backend();
  test_half_precision_is_near();
  test_a_call_may_hold_rows_or_steps_alone_or_nothing();
  test_frames_are_put_on_the_device_for_renderers();
  test_workspaces_of_a_model_serve_threads_at_once();
#if defined(UNILS_CUDA_ON_HOST)
  test_a_step_neither_allocates_nor_launches_kernels_one_by_one();
  test_a_gpu_that_cannot_serve_scores_0_and_says_why();
  test_any_call_may_fail_and_sessions_go_on();
  test_making_anything_may_fail();
  test_a_lost_device_is_an_error_of_every_call_and_no_crash();
#endif
  return check::result();
}
