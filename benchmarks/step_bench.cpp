// Time of a frame in the step engine against the time of reading its weights once, and of the frames of many sessions
// stepped one by one and in one call.
//
//   step_bench BUNDLE [frames] [cfg_scale] [threads]
//
// UNILS_CPU pins the instruction set. "warm": one session, frame after frame, weights wherever the caches keep them.
// "cold": before every frame a buffer larger than any cache is written, as other work on the machine would do in the
// 40 ms between two frames. Then a table of batches: what a frame costs of a core (processor time of all threads) and of
// the clock. Only "warm" below 100 frames, so that `valgrind --tool=callgrind step_bench BUNDLE 20` sees little but the
// engine. Figures are medians; a frame is a row of each track and a step.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/arena.h"
#include "core/cpu.h"
#include "engine/step_engine.h"
#include "model/model.h"

using namespace unils;

namespace {

constexpr size_t kMoreThanAnyCache = size_t{256} << 20;

void require(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.sentence().c_str());
  std::exit(1);
}

double microseconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

double core_microseconds() {
  timespec now = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<long>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Every cache line of `data`, by the widest loads of the level. The empty assembly keeps the loads.
#if defined(__x86_64__)
__attribute__((target("avx512f"))) void read_avx512(const char* data, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 256) {
    for (size_t j = 0; j < 256; j += 64) {
      const __m512i line = _mm512_load_si512(data + i + j);
      __asm__ volatile("" : : "v"(line));
    }
  }
}
__attribute__((target("avx2"))) void read_avx2(const char* data, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 256) {
    for (size_t j = 0; j < 256; j += 32) {
      const __m256i half = _mm256_load_si256(reinterpret_cast<const __m256i*>(data + i + j));
      __asm__ volatile("" : : "x"(half));
    }
  }
}
#endif
void read_once(CpuLevel level, const char* data, size_t bytes) {
#if defined(__x86_64__)
  if (level == CpuLevel::kAvx512) return read_avx512(data, bytes);
  if (level == CpuLevel::kAvx2) return read_avx2(data, bytes);
#endif
  static_cast<void>(level);
  for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
    const uint64_t word = *reinterpret_cast<const uint64_t*>(data + i);
    __asm__ volatile("" : : "r"(word));
  }
}

struct Times {
  double read, frame;  // microseconds
};

class Bench {
 public:
  Bench(const char* bundle, float cfg_scale, int threads) {
    require(choose_cpu_level(&level));
    load_us = microseconds([&] { require(Model::load(bundle, "cpu", threads, &model)); });
    require(StepEngine::create(model, &engine));
    weight_bytes = round_up(static_cast<size_t>(model->weight_bytes()), 256);
    require(Arena::create(weight_bytes, &weights));
    params.cfg_scale = cfg_scale;
    params.top_p = 0.97f;
    row.resize(static_cast<size_t>(engine->row_values()));
    make_sessions(1);
  }

  // `count` of them, all at frame 0.
  void make_sessions(int count) {
    require(engine->create_states(count, &blocks));
    require(engine->create_workspace(count, &workspace));
    states.clear();
    counts.resize(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) {
      Arena& own = counts[static_cast<size_t>(i)];
      require(Arena::create(engine->counts_bytes(), &own));
      states.push_back({own.data(), blocks->block(i)});
      require(engine->reset(states.back()));
    }
    motion.resize(static_cast<size_t>(count * engine->channels()));
    requests.resize(static_cast<size_t>(count));
  }

  // The next frame of sessions [first, first + count) in one call.
  void frame(int first, int count) {
    for (int i = 0; i < count; ++i) {
      StepRequest& request = requests[static_cast<size_t>(i)];
      request.state = states[static_cast<size_t>(first + i)];
      request.params = &params;
      request.motion = motion.data() + i * engine->channels();
      const int64_t seed = engine->frame(request.state) * 31 + first + i;
      for (size_t v = 0; v < row.size(); ++v) {
        row[v] = -6.0f + static_cast<float>((seed + static_cast<int64_t>(v) * 17) % 97) * 0.1f;
      }
      for (const Track track : {Track::kSelf, Track::kOther}) {
        require(engine->push_row(request.state, *workspace, track, row.data()));
      }
    }
    engine->step_batch(requests.data(), count, *workspace);
    for (int i = 0; i < count; ++i) require(requests[static_cast<size_t>(i)].status);
  }

  // `between` runs before each timed thing.
  Times lone(int frames, const std::function<void()>& between) {
    std::vector<double> read, one;
    for (int i = 0; i < frames; ++i) {
      between();
      read.push_back(microseconds([&] { read_once(level, weights.at<char>(0), weight_bytes); }));
    }
    for (int i = 0; i < frames; ++i) {
      between();
      one.push_back(microseconds([&] { frame(0, 1); }));
    }
    return {median(read), median(one)};
  }

  // One by one and together, in turns, so that both meet the same machine.
  void table_line(int sessions, int rounds) {
    make_sessions(sessions);
    for (int i = 0; i < model->config().sizes.window_frames; ++i) frame(0, sessions);  // a full memory
    std::vector<double> clock[2], core[2];
    for (int round = 0; round < rounds; ++round) {
      for (const int together : {0, 1}) {
        const double before = core_microseconds();
        clock[together].push_back(microseconds([&] {
          if (together == 1) return frame(0, sessions);
          for (int i = 0; i < sessions; ++i) frame(i, 1);
        }));
        core[together].push_back(core_microseconds() - before);
      }
    }
    const auto each = [sessions](const std::vector<double>& times) { return median(times) / sessions; };
    std::printf("%8d  %8.1f %8.1f  %8.1f %8.1f  %6.2f x\n", sessions, each(core[0]), each(clock[0]), each(core[1]),
                each(clock[1]), each(core[0]) / each(core[1]));
  }

  CpuLevel level = CpuLevel::kRef;
  std::shared_ptr<const Model> model;
  std::shared_ptr<const StepEngine> engine;
  std::vector<Arena> counts;
  std::unique_ptr<StepStates> blocks;
  std::vector<StepState> states;
  std::unique_ptr<StepWorkspace> workspace;
  Arena weights;
  size_t weight_bytes = 0;
  double load_us = 0.0;

 private:
  StepParams params;
  std::vector<float> motion, row;
  std::vector<StepRequest> requests;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 5) {
    std::fprintf(stderr, "step_bench BUNDLE [frames] [cfg_scale] [threads]\n");
    return 2;
  }
  const int frames = argc > 2 ? std::max(1, std::atoi(argv[2])) : 2000;
  const int threads = argc > 4 ? std::atoi(argv[4]) : 1;
  Bench bench(argv[1], argc > 3 ? std::strtof(argv[3], nullptr) : 1.5f, threads);
  std::printf(
      "%s, %d thread(s): %lld parameters, load %.1f ms; a frame reads %.2f MB of weights; a session holds %.2f MB and "
      "%.2f MB of scratch\n",
      cpu_level_name(bench.level), threads, static_cast<long long>(bench.model->parameters()), bench.load_us / 1e3,
      static_cast<double>(bench.weight_bytes) / 1e6, static_cast<double>(bench.engine->block_bytes()) / 1e6,
      static_cast<double>(bench.workspace->bytes()) / 1e6);

  const auto show = [&](const char* name, const Times& times) {
    std::printf("%s: read weights once %.1f us, frame %.1f us = %.2f x reading\n", name, times.read, times.frame,
                times.frame / times.read);
  };
  show("warm", bench.lone(frames, [] {}));
  if (frames < 100) return 0;
  std::vector<char> other_work(kMoreThanAnyCache);
  show("cold", bench.lone(60, [&] {
    for (size_t i = 0; i < other_work.size(); i += kCacheLine) ++other_work[i];
  }));
  std::printf("microseconds a frame  one by one            together\n");
  std::printf("sessions      core    clock      core    clock\n");
  for (const int sessions : {1, 2, 4, 8, 16, 32, 64}) bench.table_line(sessions, std::max(20, frames / sessions));
  return 0;
}
