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

}  // namespace

int main() {
  const TemporaryFolder folder("unils_allocations");
  BundleWriter().write(folder / "stream");
  test_nothing_allocates_after_a_session_is_made(folder / "stream", nullptr);
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
