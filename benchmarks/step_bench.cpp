// Time of a frame in the step engine against the time of reading its weights once, on one thread.
//
//   step_bench BUNDLE [frames] [cfg_scale]
//
// UNILS_CPU pins the instruction set. "warm": frame after frame, weights wherever the caches keep them. "cold": before
// every frame a buffer larger than any cache is written, as other work on the machine would do in the 40 ms between two
// frames; left out below 100 frames, so that `valgrind --tool=callgrind step_bench BUNDLE 20` sees little but the engine.
// Figures are medians; a frame is a row of each track and a step.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
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
  double read, rows, step, frame;  // microseconds
};

class Bench {
 public:
  Bench(const char* bundle, float cfg_scale) {
    require(choose_cpu_level(&level));
    load_us = microseconds([&] { require(Model::load(bundle, "cpu", 1, &model)); });
    require(StepEngine::create(model, &engine));
    require(Arena::create(engine->state_bytes(), &state));
    require(Arena::create(engine->workspace_bytes(), &workspace));
    weight_bytes = round_up(static_cast<size_t>(model->weight_bytes()), 256);
    require(Arena::create(weight_bytes, &weights));
    params.cfg_scale = cfg_scale;
    params.top_p = 0.97f;
    motion.resize(static_cast<size_t>(engine->channels()));
    row.resize(static_cast<size_t>(engine->row_values()));
    engine->reset(state.data());
  }

  // `between` runs before each timed thing.
  Times run(int frames, const std::function<void()>& between) {
    std::vector<double> read, rows, step, frame;
    for (int i = 0; i < frames; ++i) {
      between();
      read.push_back(microseconds([&] { read_once(level, weights.at<char>(0), weight_bytes); }));
    }
    for (int i = 0; i < frames; ++i) {
      for (size_t v = 0; v < row.size(); ++v)
        row[v] = -6.0f + static_cast<float>((i * 31 + static_cast<int>(v) * 17) % 97) * 0.1f;
      between();
      rows.push_back(microseconds([&] {
        for (const Track track : {Track::kSelf, Track::kOther}) {
          require(engine->push_row(state.data(), workspace.data(), track, row.data()));
        }
      }));
      step.push_back(
          microseconds([&] { require(engine->step(state.data(), workspace.data(), params, motion.data())); }));
      frame.push_back(rows.back() + step.back());
    }
    return {median(read), median(rows), median(step), median(frame)};
  }

  CpuLevel level = CpuLevel::kRef;
  std::shared_ptr<const Model> model;
  std::unique_ptr<StepEngine> engine;
  Arena state, workspace, weights;
  size_t weight_bytes = 0;
  double load_us = 0.0;

 private:
  StepParams params;
  std::vector<float> motion, row;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 4) {
    std::fprintf(stderr, "step_bench BUNDLE [frames] [cfg_scale]\n");
    return 2;
  }
  const int frames = argc > 2 ? std::max(1, std::atoi(argv[2])) : 2000;
  Bench bench(argv[1], argc > 3 ? std::strtof(argv[3], nullptr) : 1.5f);
  std::printf(
      "%s: %lld parameters, load %.1f ms; a frame reads %.2f MB of weights; a session holds %.2f MB and %.2f MB of "
      "scratch\n",
      cpu_level_name(bench.level), static_cast<long long>(bench.model->parameters()), bench.load_us / 1e3,
      static_cast<double>(bench.weight_bytes) / 1e6, static_cast<double>(bench.state.bytes()) / 1e6,
      static_cast<double>(bench.workspace.bytes()) / 1e6);

  const auto show = [&](const char* name, const Times& times) {
    std::printf(
        "%s: read weights once %.1f us, rows of both tracks %.1f us, step %.1f us, frame %.1f us = %.2f x reading\n",
        name, times.read, times.rows, times.step, times.frame, times.frame / times.read);
  };
  show("warm", bench.run(frames, [] {}));
  if (frames < 100) return 0;
  std::vector<char> other_work(kMoreThanAnyCache);
  show("cold", bench.run(60, [&] {
    for (size_t i = 0; i < other_work.size(); i += kCacheLine) ++other_work[i];
  }));
  return 0;
}
