// After a session's blocks are made, pushing rows and stepping allocate nothing: counted at malloc, which operator new
// ends at.
#include <atomic>
#include <cstdlib>
#include <new>

#include "bundle_writer.h"
#include "check.h"
#include "engine_driver.h"

static std::atomic<long> allocations{0};

// A sanitizer has its own allocator, and other C libraries have no names for theirs: there only the calls are made.
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
constexpr bool kCounts = true;
extern "C" void* __libc_malloc(size_t);
extern "C" void* __libc_calloc(size_t, size_t);
extern "C" void* __libc_realloc(void*, size_t);
extern "C" void* __libc_memalign(size_t, size_t);
extern "C" void* malloc(size_t bytes) { return ++allocations, __libc_malloc(bytes); }
extern "C" void* calloc(size_t count, size_t bytes) { return ++allocations, __libc_calloc(count, bytes); }
extern "C" void* realloc(void* block, size_t bytes) { return ++allocations, __libc_realloc(block, bytes); }
extern "C" void* aligned_alloc(size_t alignment, size_t bytes) {
  return ++allocations, __libc_memalign(alignment, bytes);
}
extern "C" int posix_memalign(void** block, size_t alignment, size_t bytes) {
  ++allocations;
  *block = __libc_memalign(alignment, bytes);
  return *block == nullptr ? 12 : 0;
}
#else
constexpr bool kCounts = false;
#endif

using namespace unils;

int main() {
  const TemporaryFolder folder("unils_test_allocations");
  BundleWriter().write(folder / "tiny");
  at_every_level([&] {
    EngineDriver driver(folder / "tiny");
    const StepEngine& engine = *driver.engine;
    void *state = driver.state.data(), *workspace = driver.workspace.data();
    const std::vector<float> row = made_up_row(Track::kSelf, 0), style(55 * 100, 0.2f);
    std::vector<float> motion(static_cast<size_t>(engine.channels()));
    StepParams params;
    params.look_ahead_self = 2;
    params.cfg_scale = 1.5f;
    std::vector<char> copy(driver.state.bytes());

    const long before = allocations;
    bool all_ok = true;
    for (int session = 0; session < 2; ++session) {
      engine.reset(state);
      all_ok = all_ok && engine.set_style(state, workspace, style.data(), session == 0 ? 0 : 100).ok();
      for (int frame = 0; frame < 200; ++frame) {
        for (const Track track : kTracks) {
          while (engine.rows(state, track) < frame + 1 + (track == Track::kSelf ? 2 : 0)) {
            all_ok = all_ok && engine.push_row(state, workspace, track, row.data()).ok();
          }
        }
        all_ok = all_ok && engine.step(state, workspace, params, motion.data()).ok();
        if (frame == 100) std::memcpy(copy.data(), state, copy.size());
        if (frame % 50 == 49) all_ok = all_ok && engine.rewind_rows(state, Track::kSelf, frame + 1).ok();
      }
    }
    const long during = allocations - before;
    CHECK(all_ok);
    CHECK(during == 0);
  });
  // The counter counts.
  const long before = allocations;
  void* volatile block = ::operator new(64);
  ::operator delete(block);
  CHECK(allocations - before == (kCounts ? 1 : 0));
  return check::result();
}
