// Nothing allocates after a session is made: every allocator of the process is counted, on glibc's own entry points.
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "bundle_writer.h"
#include "check.h"
#include "conversation.h"
#include "graph_bundle.h"
#include "published_bundle.h"
#include "unils/unils.h"

namespace {
int64_t allocations = 0;
}

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t bytes) noexcept {
  ++allocations;
  return __libc_malloc(bytes);
}
void* calloc(size_t count, size_t bytes) noexcept {
  ++allocations;
  return __libc_calloc(count, bytes);
}
void* realloc(void* block, size_t bytes) noexcept {
  ++allocations;
  return __libc_realloc(block, bytes);
}
void* memalign(size_t alignment, size_t bytes) noexcept {
  ++allocations;
  return __libc_memalign(alignment, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) noexcept { return memalign(alignment, bytes); }
int posix_memalign(void** block, size_t alignment, size_t bytes) noexcept {
  *block = memalign(alignment, bytes);
  return *block == nullptr ? ENOMEM : 0;
}
}  // extern "C"

namespace {

using namespace unils;

// Every call of a session's life but the first and the last.
void live(unils_session* session, const Samples& audio, std::vector<float>* values, std::vector<char>* state) {
  const unils_frames out = {values->data(), nullptr, nullptr, nullptr};
  const auto capacity = static_cast<int64_t>(values->size()) / (2 * 55);
  int64_t taken = 0, count = 0, generation = 0, frames = 0;
  const int rates[2] = {44100, 48000};
  for (int64_t at = 0; at + 960 <= static_cast<int64_t>(audio.size()); at += 960) {
    for (const unils_track track : {UNILS_TRACK_SELF, UNILS_TRACK_OTHER}) {
      CHECK(unils_session_push_audio(session, track, audio.data() + at, UNILS_FLOAT32, 960, rates[track], &taken) ==
            UNILS_OK);
    }
    CHECK(unils_session_frames_ready(session, &count) == UNILS_OK);
    CHECK(unils_session_pull_frames(session, &out, capacity, &count) == UNILS_OK);
    frames += count;
    if (at == 960 * 30) CHECK(unils_session_interrupt(session, &generation) == UNILS_OK);
    if (at == 960 * 40) CHECK(unils_session_snapshot(session, state->data(), state->size()) == UNILS_OK);
    if (at == 960 * 45) CHECK(unils_session_restore(session, state->data(), state->size()) == UNILS_OK);
  }
  unils_stats stats = {};
  stats.struct_size = sizeof stats;
  unils_latency latency = {};
  latency.struct_size = sizeof latency;
  CHECK(unils_session_get_stats(session, &stats) == UNILS_OK);
  CHECK(unils_session_get_latency(session, &latency) == UNILS_OK);
  CHECK(unils_session_finish(session) == UNILS_OK);
  CHECK(unils_session_pull_frames(session, &out, capacity, &count) == UNILS_OK);
  CHECK(frames + count > 40);
  CHECK(unils_session_reset(session) == UNILS_OK);
}

void test_nothing_allocates_after_a_session_is_made(const std::string& bundle, const unils_graph_runner* runner,
                                                    unils_mode mode = UNILS_MODE_WINDOWED, int faces = 1,
                                                    const char* backend = nullptr) {
  unils_model_options model_options = {};
  model_options.struct_size = sizeof model_options;
  model_options.threads = 1;
  model_options.backend = backend;
  model_options.graph_runner = runner;
  unils_model* model = nullptr;
  CHECK(unils_model_load(bundle.c_str(), &model_options, &model) == UNILS_OK);
  const std::vector<float> style(100 * 55, 0.1f);
  unils_session_options options;
  CHECK(unils_session_options_init(model, &options) == UNILS_OK);
  options.style = style.data();
  options.style_frames = 100;
  options.smoothing = 1;
  options.mode = mode;
  options.faces = faces;
  const int64_t before = allocations;
  unils_session* session = nullptr;
  CHECK(unils_session_create(model, &options, &session) == UNILS_OK);
  CHECK(allocations > before);  // the counter counts
  const Samples audio = speech_like(100000, 1);
  std::vector<float> values(100 * 2 * 55);
  std::vector<char> state(unils_session_snapshot_bytes(session));
  const int64_t made = allocations;
  live(session, audio, &values, &state);
  live(session, audio, &values, &state);
  const int64_t during = allocations - made;
  if (!CHECK(during == 0)) std::fprintf(stderr, "  %lld allocations\n", static_cast<long long>(during));
  unils_session_free(session);
  unils_model_free(model);
}

// Sessions that join, are pushed to, pulled, reset and closed.
void live_in(unils_pool* pool, const unils_session_options* options, const Samples& audio, std::vector<float>* values,
             std::vector<int64_t>* ids) {
  const unils_pool_frames out = {{values->data(), nullptr, nullptr, nullptr}, ids->data()};
  const auto capacity = static_cast<int64_t>(ids->size());
  unils_session* sessions[5] = {};
  int64_t id = 0, count = 0, frames = 0, taken[5] = {};
  for (unils_session*& session : sessions) CHECK(unils_pool_session(pool, options, &session, &id) == UNILS_OK);
  std::vector<float>& chunk = *values;  // what was pulled is of no more use
  for (int hop = 0; hop < 60; ++hop) {
    std::copy_n(audio.begin() + hop * 640, 5 * 640, chunk.begin());
    for (const unils_track track : {UNILS_TRACK_SELF, UNILS_TRACK_OTHER}) {
      CHECK(unils_pool_push_audio(pool, sessions, 5, track, chunk.data(), UNILS_FLOAT32, 640, 16000, taken, nullptr) ==
            UNILS_OK);
    }
    CHECK(unils_pool_frames_ready(pool, &count) == UNILS_OK);
    CHECK(unils_pool_pull(pool, &out, capacity, &count) == UNILS_OK);
    frames += count;
    if (hop % 7 == 6) {
      unils_session_free(sessions[hop % 5]);
      CHECK(unils_pool_session(pool, options, &sessions[hop % 5], &id) == UNILS_OK);
    }
    if (hop == 30) CHECK(unils_session_reset(sessions[0]) == UNILS_OK);
  }
  CHECK(frames > 100);
  for (unils_session* session : sessions) unils_session_free(session);
}

void test_nothing_allocates_after_a_pool_is_made(const std::string& bundle) {
  for (const int32_t threads : {1, 2}) {
    unils_model_options model_options = {};
    model_options.struct_size = sizeof model_options;
    model_options.threads = threads;
    unils_model* model = nullptr;
    CHECK(unils_model_load(bundle.c_str(), &model_options, &model) == UNILS_OK);
    const std::vector<float> style(100 * 55, 0.1f);
    unils_session_options options;
    CHECK(unils_session_options_init(model, &options) == UNILS_OK);
    options.style = style.data();
    options.style_frames = 100;
    options.smoothing = 1;
    unils_pool_options pool_options = {};
    pool_options.struct_size = sizeof pool_options;
    pool_options.max_sessions = 5;
    unils_pool* pool = nullptr;
    CHECK(unils_pool_create(model, &pool_options, &pool) == UNILS_OK);
    const Samples audio = speech_like(100000, 2);
    std::vector<float> values(5 * 640 + 64 * 55);
    std::vector<int64_t> ids(64);
    const int64_t made = allocations;
    live_in(pool, &options, audio, &values, &ids);
    live_in(pool, nullptr, audio, &values, &ids);
    const int64_t during = allocations - made;
    if (!CHECK(during == 0)) std::fprintf(stderr, "  %lld allocations\n", static_cast<long long>(during));
    unils_pool_free(pool);
    unils_model_free(model);
  }
}

}  // namespace

int main() {
  const TemporaryFolder folder("unils_allocations");
  BundleWriter().write(folder / "stream");
  test_nothing_allocates_after_a_session_is_made(folder / "stream", nullptr);
  test_nothing_allocates_after_a_pool_is_made(folder / "stream");
  PublishedBundle().write(folder / "published");
  const FakeRunner runner;
  test_nothing_allocates_after_a_session_is_made(folder / "published", &runner.table);
  test_nothing_allocates_after_a_session_is_made(folder / "published", &runner.table, UNILS_MODE_ROLLING);
  test_nothing_allocates_after_a_session_is_made(folder / "published", &runner.table, UNILS_MODE_ROLLING, 2);
  CHECK(runner.shapes_fit);
  write_graph_bundle(BundleWriter(), folder / "graphs");
  const CountingRunner counting;
  test_nothing_allocates_after_a_session_is_made(folder / "graphs", &counting.table, UNILS_MODE_WINDOWED, 1,
                                                 "onnxruntime");
  CHECK(counting.shapes_fit && counting.runs[1] > 40);
  return check::result();
}
