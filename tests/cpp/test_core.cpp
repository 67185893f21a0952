// Status, arena, ring index arithmetic, Philox and the choice of instructions.
#include <cstdlib>
#include <set>
#include <string>

#include "check.h"
#include "core/arena.h"
#include "core/cpu.h"
#include "core/philox.h"
#include "core/ring.h"
#include "core/status.h"

using namespace unils;

static void test_an_error_carries_its_code_and_sentence() {
  CHECK_OK(Status());
  CHECK_ERROR(error(UNILS_ERROR_IO, "%s has %d parts", "this", 3), UNILS_ERROR_IO, "this has 3 parts");
  const Status status = [] {
    UNILS_RETURN_IF_ERROR(error(UNILS_ERROR_STATE, "first"));
    return Status();
  }();
  CHECK_ERROR(status, UNILS_ERROR_STATE, "first");
}

static void test_text_from_outside_is_made_printable() {
  CHECK(printable("mel_mean") == "mel_mean");
  CHECK(printable("a\n\x1b[31m\xff") == "a??[31m?");
  CHECK(printable(std::string(5000, 'x')).size() == 83);
}

static void test_an_arena_is_zeroed_and_its_parts_are_aligned() {
  ArenaLayout layout;
  const size_t a = layout.add<char>(1), b = layout.add<double>(9), c = layout.add<float>(0), d = layout.add<int64_t>(1);
  CHECK(a == 0 && b == 64 && c == 192 && d == 192 && layout.bytes() == 256);
  Arena arena;
  CHECK_OK(Arena::create(layout.bytes(), &arena));
  CHECK(reinterpret_cast<uintptr_t>(arena.data()) % kCacheLine == 0);
  for (size_t i = 0; i < arena.bytes(); ++i) CHECK(arena.at<char>(i)[0] == 0);
  arena.at<double>(b)[8] = 2.5;
  CHECK(static_cast<const Arena&>(arena).at<double>(b)[8] == 2.5);
  Arena moved = std::move(arena);
  CHECK(moved.at<double>(b)[8] == 2.5);
}

static void test_memory_that_is_not_there_is_a_status() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they abort instead
  Arena arena;
  CHECK_ERROR(Arena::create(size_t{1} << 60, &arena), UNILS_ERROR_OUT_OF_MEMORY, "could not be allocated");
#endif
}

static void test_a_ring_holds_its_window_and_never_wraps_a_write() {
  CHECK(RingIndex::for_window(128, 1).capacity() == 128);
  CHECK(RingIndex::for_window(100, 7).capacity() % 7 == 0);
  for (int64_t window : {1, 2, 13, 64, 100}) {
    for (int64_t write : {1, 3, 4, 10}) {
      const RingIndex ring = RingIndex::for_window(window, write);
      CHECK(ring.capacity() >= window + write - 1);
      for (int64_t at = 0; at < 5 * ring.capacity(); at += write) {
        CHECK(ring.spans(at, write).newer.count == 0);
        // What the reader before the first of the written positions sees is intact.
        std::set<int64_t> slots;
        for (int64_t p = std::max<int64_t>(0, at - window + 1); p < at + write; ++p) slots.insert(ring.slot(p));
        CHECK(static_cast<int64_t>(slots.size()) == std::min(at, window - 1) + write);
      }
    }
  }
}

static void test_ring_spans_run_from_oldest_to_newest() {
  const RingIndex ring(10);
  for (int64_t first : {int64_t{0}, int64_t{7}, int64_t{9}, (int64_t{1} << 40) + 3}) {
    for (int64_t count = 0; count <= 10; ++count) {
      const RingSpans spans = ring.spans(first, count);
      CHECK(spans.older.count + spans.newer.count == count);
      for (int64_t i = 0; i < count; ++i) {
        const bool in_older = i < spans.older.count;
        CHECK(ring.slot(first + i) == (in_older ? spans.older.slot + i : spans.newer.slot + i - spans.older.count));
      }
    }
  }
}

static void test_philox_gives_the_published_numbers() {
  // Known answers of Random123 1.14, kat_vectors, philox4x32 10.
  using Words = std::array<uint32_t, 4>;
  CHECK((philox4x32_10({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  CHECK(
      (philox4x32_10({ones, ones, ones, ones}, {ones, ones}) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  CHECK((philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
         Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

static void test_a_pinned_level_is_taken_or_refused_loudly() {
  CpuLevel level = CpuLevel::kNeon;
  setenv("UNILS_CPU", "ref", 1);
  CHECK_OK(choose_cpu_level(&level));
  CHECK(level == CpuLevel::kRef);
  setenv("UNILS_CPU", "sse9", 1);
  CHECK_ERROR(choose_cpu_level(&level), UNILS_ERROR_BACKEND, "UNILS_CPU=sse9");
  for (const CpuLevel each : {CpuLevel::kNeon, CpuLevel::kAvx2, CpuLevel::kAvx512}) {
    setenv("UNILS_CPU", cpu_level_name(each), 1);
    if (cpu_supports(each)) {
      CHECK_OK(choose_cpu_level(&level));
      CHECK(level == each);
    } else {
      CHECK_ERROR(choose_cpu_level(&level), UNILS_ERROR_BACKEND, "cannot run it");
    }
  }
  unsetenv("UNILS_CPU");
  CHECK_OK(choose_cpu_level(&level));
  CHECK(cpu_supports(level));
}

int main() {
  test_an_error_carries_its_code_and_sentence();
  test_text_from_outside_is_made_printable();
  test_an_arena_is_zeroed_and_its_parts_are_aligned();
  test_memory_that_is_not_there_is_a_status();
  test_a_ring_holds_its_window_and_never_wraps_a_write();
  test_ring_spans_run_from_oldest_to_newest();
  test_philox_gives_the_published_numbers();
  test_a_pinned_level_is_taken_or_refused_loudly();
  return check::result();
}
