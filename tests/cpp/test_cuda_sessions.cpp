// Whole sessions on the cuda backend, loaded as the plug-in that it is, beside the same sessions on the cpu backend.
// usage: test_cuda_sessions PLUGIN (libunils_cuda.so, on a GPU or for the CUDA device that the host plays)
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "bundle_writer.h"
#include "check.h"
#include "unils/unils.h"

using namespace unils;

namespace {

constexpr int kChannels = 55;

void ok(unils_status status) {
  if (!CHECK(status == UNILS_OK)) std::fprintf(stderr, "  %s\n", unils_last_error());
}

class LoadedModel {
 public:
  LoadedModel(const std::string& bundle, const char* backend) {
    unils_model_options options = {};
    options.struct_size = sizeof options;
    options.backend = backend, options.threads = 1;
    ok(unils_model_load(bundle.c_str(), &options, &model));
  }
  ~LoadedModel() { unils_model_free(model); }
  LoadedModel(const LoadedModel&) = delete;
  LoadedModel& operator=(const LoadedModel&) = delete;
  unils_model* model = nullptr;
};

unils_session_options options_of(const unils_model* model, int i) {
  unils_session_options options = {};
  ok(unils_session_options_init(model, &options));
  options.clock = UNILS_CLOCK_OTHER;
  options.look_ahead_self = i % 4, options.look_ahead_other = i % 2;
  options.temperature = i % 3 == 0 ? 0.0f : 1.0f;
  options.cfg_scale = i % 2 == 0 ? 1.5f : 1.0f;
  options.seed = static_cast<uint64_t>(i);
  return options;
}

// Some audio of a track, from `at` on, that anyone can compute.
std::vector<float> audio(int session, int track, int64_t at, int64_t count) {
  std::vector<float> samples;
  for (int64_t i = at; i < at + count; ++i) {
    const double t = static_cast<double>(i) / 16000.0, loud = 0.3 * std::fabs(std::sin(2.0 * t + session + track));
    samples.push_back(static_cast<float>(loud * (std::sin(900.0 * t * (1.0 + 0.3 * track) + 3.0 * std::sin(7.0 * t)) +
                                                 0.4 * std::sin(4000.0 * t + session))));
  }
  return samples;
}

// A session and how much it has heard.
struct Player {
  unils_session* session = nullptr;
  int number = 0;
  int64_t heard[2] = {};

  void push(int64_t count) {
    for (int track = 0; track < 2; ++track) {
      const std::vector<float> samples = audio(number, track, heard[track], count);
      int64_t taken = 0;
      ok(unils_session_push_audio(session, track == 0 ? UNILS_TRACK_SELF : UNILS_TRACK_OTHER, samples.data(),
                                  UNILS_FLOAT32, count, 16000, &taken));
      CHECK(taken == count);
      heard[track] += count;
    }
  }
  std::vector<float> pull() {
    std::vector<float> values(64 * kChannels);
    unils_frames frames = {values.data(), nullptr, nullptr, nullptr};
    int64_t count = 0;
    ok(unils_session_pull_frames(session, &frames, 64, &count));
    values.resize(static_cast<size_t>(count) * kChannels);
    return values;
  }
};

void check_near(const std::vector<float>& a, const std::vector<float>& b) {
  if (!CHECK(a.size() == b.size())) return;
  for (size_t i = 0; i < a.size(); ++i) CHECK_NEAR(a[i], b[i], 1e-4);
}

void test_the_plug_in_is_what_runs(const unils_model* model) {
  unils_model_info info = {};
  info.struct_size = sizeof info;
  ok(unils_model_get_info(model, &info));
  CHECK(std::string(info.backend) == "cuda");
  CHECK(info.weight_bytes > 0);
}

// With barge-ins on the way, and then each going on from the other's snapshot.
void test_sessions_equal_those_of_the_cpu_backend(const unils_model* cuda, const unils_model* cpu) {
  for (int i = 0; i < 4; ++i) {
    const unils_session_options options = options_of(cpu, i);
    Player players[2];
    const unils_model* models[2] = {cuda, cpu};
    for (int p = 0; p < 2; ++p) {
      players[p].number = i;
      ok(unils_session_create(models[p], &options, &players[p].session));
    }
    int64_t frames = 0;
    for (int round = 0; round < 30; ++round) {
      for (Player& player : players) player.push(317 + 211 * (round % 5));
      const std::vector<float> of_cuda = players[0].pull();
      check_near(of_cuda, players[1].pull());
      frames += static_cast<int64_t>(of_cuda.size()) / kChannels;
      if (round % 11 == 7) {
        for (Player& player : players) ok(unils_session_interrupt(player.session, nullptr));
      }
      if (round != 15) continue;
      std::vector<char> snapshots[2];
      for (int p = 0; p < 2; ++p) {
        snapshots[p].resize(unils_session_snapshot_bytes(players[p].session));
        ok(unils_session_snapshot(players[p].session, snapshots[p].data(), snapshots[p].size()));
      }
      for (int p = 0; p < 2; ++p) {
        ok(unils_session_restore(players[p].session, snapshots[1 - p].data(), snapshots[1 - p].size()));
      }
    }
    CHECK(frames > 30);
    for (Player& player : players) {
      ok(unils_session_finish(player.session));
    }
    check_near(players[0].pull(), players[1].pull());
    for (Player& player : players) unils_session_free(player.session);
  }
}

void test_a_pool_makes_the_frames_of_lone_sessions(const unils_model* model) {
  constexpr int kSessions = 6;
  unils_pool_options pool_options = {sizeof(unils_pool_options), kSessions};
  unils_pool* pool = nullptr;
  ok(unils_pool_create(model, &pool_options, &pool));
  std::vector<Player> together(kSessions), alone(kSessions);
  std::vector<int64_t> ids(kSessions);
  for (int i = 0; i < kSessions; ++i) {
    const unils_session_options options = options_of(model, i);
    const auto at = static_cast<size_t>(i);
    together[at].number = alone[at].number = i;
    ok(unils_pool_session(pool, &options, &together[at].session, &ids[at]));
    ok(unils_session_create(model, &options, &alone[at].session));
  }
  std::vector<std::vector<float>> of_pool(kSessions), of_alone(kSessions);
  for (int round = 0; round < 12; ++round) {
    for (size_t i = 0; i < together.size(); ++i) {
      if ((static_cast<size_t>(round) + i) % 4 == 0) continue;  // who has nothing to say costs nothing
      together[i].push(500), alone[i].push(500);
      const std::vector<float> made = alone[i].pull();
      of_alone[i].insert(of_alone[i].end(), made.begin(), made.end());
    }
    std::vector<float> values(64 * kChannels);
    std::vector<int64_t> sessions(64);
    const unils_pool_frames frames = {{values.data(), nullptr, nullptr, nullptr}, sessions.data()};
    int64_t count = 0;
    ok(unils_pool_pull(pool, &frames, 64, &count));
    for (int64_t n = 0; n < count; ++n) {
      for (size_t i = 0; i < ids.size(); ++i) {
        if (ids[i] != sessions[static_cast<size_t>(n)]) continue;
        of_pool[i].insert(of_pool[i].end(), values.begin() + n * kChannels, values.begin() + (n + 1) * kChannels);
      }
    }
  }
  for (size_t i = 0; i < together.size(); ++i) {
    CHECK(!of_pool[i].empty() && of_pool[i] == of_alone[i]);
    unils_session_free(alone[i].session);
  }
  unils_pool_free(pool);
}

void test_frames_can_be_put_on_the_device(const unils_model* model) {
  const std::vector<float> frames(kChannels, 0.25f);
  unils_device_array array = {};
  array.struct_size = sizeof array;
  ok(unils_model_device_put(model, frames.data(), kChannels, &array));
  CHECK(array.data != nullptr && array.device_type == 2);
  unils_model_device_free(model, array.data);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  setenv("UNILS_CUDA_PLUGIN", argv[1], 1);
  unils_backend_info info = {};
  for (int32_t i = 0; i < unils_backend_count(); ++i) {
    info.struct_size = sizeof info;
    ok(unils_backend_get(i, &info));
    if (std::string(info.name) == "cuda") break;
  }
  if (info.score == 0) {
    std::printf("skipped: %s\n", info.detail);
    return 77;
  }
  const TemporaryFolder folder("unils_cuda_sessions");
  BundleWriter().write(folder / "bundle");
  {
    const LoadedModel cuda(folder / "bundle", "cuda"), cpu(folder / "bundle", "cpu");
    test_the_plug_in_is_what_runs(cuda.model);
    test_sessions_equal_those_of_the_cpu_backend(cuda.model, cpu.model);
    test_a_pool_makes_the_frames_of_lone_sessions(cuda.model);
    test_frames_can_be_put_on_the_device(cuda.model);
  }
  return check::result();
}
