// After a session's blocks are made, pushing rows and stepping allocate nothing: counted at malloc, which operator new
// ends at.
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

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
    const StepState state = driver.state;
    StepWorkspace& workspace = *driver.workspace;
    const std::vector<float> row = made_up_row(Track::kSelf, 0), style(55 * 100, 0.2f);
    std::vector<float> motion(static_cast<size_t>(engine.channels()));
    StepParams params;
    params.look_ahead_self = 2;
    params.cfg_scale = 1.5f;
    std::vector<char> copy(engine.block_bytes());

    const long before = allocations;
    bool all_ok = true;
    for (int session = 0; session < 2; ++session) {
      all_ok = engine.reset(state).ok() && all_ok;
      if (session == 1) all_ok = all_ok && engine.set_style(state, workspace, style.data(), 100).ok();
      for (int frame = 0; frame < 200; ++frame) {
        for (const Track track : kTracks) {
          while (all_ok && engine.rows(state, track) < frame + 1 + (track == Track::kSelf ? 2 : 0)) {
            all_ok = all_ok && engine.push_row(state, workspace, track, row.data()).ok();
          }
        }
        all_ok = all_ok && engine.step(state, workspace, params, motion.data()).ok();
        if (frame == 100) all_ok = all_ok && engine.read_block(state.block, copy.data()).ok();
        if (frame % 50 == 49) all_ok = all_ok && engine.rewind_rows(state, Track::kSelf, frame + 1).ok();
      }
    }
    const long during = allocations - before;
    CHECK(all_ok);
    CHECK(during == 0);
  });
  {
    const std::shared_ptr<const Model> model = EngineDriver::load(folder / "tiny", 2);
    constexpr int kStates = 20;
    std::vector<std::unique_ptr<EngineDriver>> drivers;
    for (int i = 0; i < kStates; ++i) drivers.push_back(std::make_unique<EngineDriver>(model));
    const StepEngine& engine = *drivers[0]->engine;
    std::unique_ptr<StepWorkspace> workspace;
    CHECK_OK(engine.create_workspace(kStates, &workspace));
    const std::vector<float> row = made_up_row(Track::kSelf, 0);
    std::vector<float> motion(static_cast<size_t>(kStates * engine.channels()));
    const StepParams params;
    std::vector<StepRequest> requests(kStates);
    bool all_ok = true;
    const long before = allocations;
    for (int frame = 0; frame < 20; ++frame) {
      for (int i = 0; i < kStates; ++i) {
        StepRequest& request = requests[static_cast<size_t>(i)];
        request.state = drivers[static_cast<size_t>(i)]->state;
        request.params = &params;
        request.motion = motion.data() + i * engine.channels();
        for (const Track track : kTracks) {
          all_ok = all_ok && engine.push_row(request.state, *workspace, track, row.data()).ok();
        }
      }
      engine.step_batch(requests.data(), 1 + frame, *workspace);
      for (int i = 0; i < 1 + frame; ++i) all_ok = all_ok && requests[static_cast<size_t>(i)].status.ok();
      for (int i = 1 + frame; i < kStates; ++i) {
        all_ok = engine.reset(requests[static_cast<size_t>(i)].state).ok() && all_ok;
      }
    }
    const long during = allocations - before;
    CHECK(all_ok);
    CHECK(during == 0);
  }
  // The counter counts.
  const long before = allocations;
  void* volatile block = ::operator new(64);
  ::operator delete(block);
  CHECK(allocations - before == (kCounts ? 1 : 0));
  return check::result();
}
