#include "cuda_runtime.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <vector>

#include "kernels/cuda/float16.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
constexpr bool kAsan = true;
#else
constexpr bool kAsan = false;
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

using Work = std::function<void()>;
struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};
struct CUstream_st {
  std::vector<Work> queue;
  CUgraph_st* capture = nullptr;
};

namespace cuda_on_host {
namespace {

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "CUDA on the host: %s\n", what);
  std::abort();
}

// ---- Fibers: a stack each, switched by hand (swapcontext would make a system call every time).

struct Context {
#if defined(__x86_64__)
  void* at = nullptr;  // stack pointer
#else
  ucontext_t at;
#endif
  const void* bottom = nullptr;  // of the stack, for ASan
  size_t size = 0;
  void* fake_stack = nullptr;
};

#if defined(__x86_64__)
extern "C" void cuda_on_host_switch(void** from, void* to);
asm(R"(
.text
.type cuda_on_host_switch, @function
cuda_on_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_host_switch, .-cuda_on_host_switch
)");
#endif

void switch_context(Context* from, const Context& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from->fake_stack, to.bottom, to.size);
#endif
#if defined(__x86_64__)
  cuda_on_host_switch(&from->at, to.at);
#else
  swapcontext(&from->at, &to.at);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

constexpr unsigned kMostThreads = 1024;
constexpr size_t kStackBytes = kAsan ? 256 << 10 : 64 << 10;

struct Warp {
  int arrived = 0;
  int64_t exchanges = 0;
  char slots[2][32 * kSlotBytes];  // of this exchange and the one before, which some lanes may still read
};
enum class Fate { kRuns, kAtBarrier, kInExchange, kDone };
struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  unsigned index = 0;
  Fate fate = Fate::kDone;
};

struct Device {
  std::recursive_mutex mutex;
  // The block that runs.
  Context scheduler;
  Fiber fibers[kMostThreads];
  Warp warps[kMostThreads / 32];
  Fiber* current = nullptr;
  const Work* thread = nullptr;
  char* shared = nullptr;
  uint32_t seed = 0, random = 0;
  // The runtime.
  std::map<char*, size_t> memory, pinned;
  std::set<CUstream_st*> streams;
  std::map<const void*, size_t> shared_limits;
  int device_count = 1, major = 9;
  size_t memory_limit = 0, memory_used = 0;
  int64_t fail_in = 0;
  bool fail_sticky = false;
  cudaError_t fail_with = cudaSuccess, lost = cudaSuccess;
  Counts counts = {};
};
Device& device() {
  static Device* const the_device = new Device;
  return *the_device;
}
thread_local cudaError_t last_error = cudaSuccess;

void run_thread() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &device().scheduler.bottom, &device().scheduler.size);
#endif
  for (;;) {
    (*device().thread)();
    device().current->fate = Fate::kDone;
    switch_context(&device().current->context, device().scheduler);  // and back for the next block
  }
}

void prepare(Fiber* fiber) {
  if (fiber->stack != nullptr) return;
  fiber->stack.reset(new char[kStackBytes]);
  fiber->context.bottom = fiber->stack.get();
  fiber->context.size = kStackBytes;
#if defined(__x86_64__)
  auto** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(fiber->stack.get() + kStackBytes) & ~uintptr_t{63});
  *--top = nullptr;  // a function finds its stack 8 bytes off a multiple of 16
  *--top = reinterpret_cast<void*>(run_thread);
  fiber->context.at = top - 6;  // six saved registers, of any value
#else
  getcontext(&fiber->context.at);
  fiber->context.at.uc_stack.ss_sp = fiber->stack.get();
  fiber->context.at.uc_stack.ss_size = kStackBytes;
  makecontext(&fiber->context.at, run_thread, 0);
#endif
}

void give_way(Fate fate) {
  device().current->fate = fate;
  switch_context(&device().current->context, device().scheduler);
}

uint32_t next_random() {
  uint32_t& x = device().random;
  x ^= x << 13, x ^= x >> 17, x ^= x << 5;
  return x;
}
void shuffle(std::vector<unsigned>* order) {
  if (device().seed == 0) return;
  for (size_t i = order->size(); i > 1; --i) std::swap((*order)[i - 1], (*order)[next_random() % i]);
}

void run_block(std::vector<unsigned>* order) {
  Device& d = device();
  const auto threads = static_cast<unsigned>(order->size());
  for (unsigned i = 0; i < threads; ++i) {
    prepare(&d.fibers[i]);
    d.fibers[i].index = i;
    d.fibers[i].fate = Fate::kRuns;
  }
  for (Warp& warp : d.warps) warp.arrived = 0;
  for (unsigned live = threads; live > 0;) {
    shuffle(order);
    bool moved = false;
    unsigned at_barrier = 0;
    live = 0;
    for (const unsigned i : *order) {
      Fiber& fiber = d.fibers[i];
      if (fiber.fate == Fate::kRuns) {
        moved = true;
        d.current = &fiber;
        threadIdx = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
        switch_context(&d.scheduler, fiber.context);
      }
      live += fiber.fate != Fate::kDone;
      at_barrier += fiber.fate == Fate::kAtBarrier;
    }
    if (at_barrier == live) {
      for (unsigned i = 0; i < threads; ++i) {
        if (d.fibers[i].fate == Fate::kAtBarrier) d.fibers[i].fate = Fate::kRuns;
      }
    } else if (!moved) {
      die("a block is stuck: some of its threads wait at a barrier or for their warp that others never reach");
    }
  }
}

void protect(int rights) {
  if (kAsan) return;
  for (const auto& [memory, bytes] : device().memory) mprotect(memory, bytes, rights);
}

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const Work& thread) {
  Device& d = device();
  ++d.counts.launches;
  d.thread = &thread;
  d.random = d.seed;
  gridDim = grid, blockDim = block;
  std::vector<unsigned> blocks(size_t{grid.x} * grid.y * grid.z), threads(size_t{block.x} * block.y * block.z);
  std::iota(blocks.begin(), blocks.end(), 0u);
  std::iota(threads.begin(), threads.end(), 0u);
  shuffle(&blocks);
  // Its own block, of exactly that size, so that ASan finds what lies beyond.
  d.shared = static_cast<char*>(std::malloc(std::max<size_t>(shared_bytes, 1)));
  for (const unsigned b : blocks) {
    blockIdx = dim3(b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y);
    std::memset(d.shared, 0xff, shared_bytes);
    run_block(&threads);
  }
  std::free(d.shared);
}

// ---- The runtime.

cudaError_t ended(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// Every call begins here.
cudaError_t begin() {
  Device& d = device();
  ++d.counts.calls;
  if (d.lost != cudaSuccess) return ended(d.lost);
  if (d.fail_in > 0 && --d.fail_in == 0) {
    if (d.fail_sticky) {
      d.lost = d.fail_with;
      for (CUstream_st* stream : d.streams) stream->queue.clear();
    }
    return ended(d.fail_with);
  }
  return cudaSuccess;
}
#define CUDA_ON_HOST_BEGIN()                                                \
  const std::lock_guard<std::recursive_mutex> lock(device().mutex);         \
  if (const cudaError_t begun = begin(); begun != cudaSuccess) return begun

void run_queue(CUstream_st* stream) {
  std::vector<Work> queue;
  queue.swap(stream->queue);
  protect(PROT_READ | PROT_WRITE);
  for (const Work& work : queue) work();
  protect(PROT_NONE);
}
void enqueue(CUstream_st* stream, Work work) {
  (stream->capture != nullptr ? stream->capture->work : stream->queue).push_back(std::move(work));
}

bool within(const std::map<char*, size_t>& blocks, const void* memory, size_t bytes) {
  auto* at = const_cast<char*>(static_cast<const char*>(memory));
  auto after = blocks.upper_bound(at);
  if (after == blocks.begin()) return false;
  --after;
  return at + bytes <= after->first + after->second;
}
bool on_device(const void* memory, size_t bytes) { return within(device().memory, memory, bytes); }
void check_copy(const void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (on_device(to, bytes) != (kind != cudaMemcpyDeviceToHost) ||
      on_device(from, bytes) != (kind != cudaMemcpyHostToDevice)) {
    die("a copy has another direction than it says, or leaves its memory");
  }
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, Work thread) {
  CUDA_ON_HOST_BEGIN();
  const dim3 grid = config.gridDim, block = config.blockDim;
  const size_t threads = size_t{block.x} * block.y * block.z;
  const auto limit = device().shared_limits.find(kernel);
  const size_t shared_limit = limit == device().shared_limits.end() ? 48 << 10 : limit->second;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535 ||
      threads == 0 || threads > kMostThreads || threads % 32 != 0 || config.dynamicSmemBytes > shared_limit) {
    return ended(cudaErrorInvalidConfiguration);
  }
  const size_t shared = config.dynamicSmemBytes;
  enqueue(config.stream, [=] { run_grid(grid, block, shared, thread); });
  return cudaSuccess;
}

cudaError_t set_shared_limit(const void* kernel, int bytes) {
  CUDA_ON_HOST_BEGIN();
  if (bytes > 227 << 10) return ended(cudaErrorInvalidValue);
  device().shared_limits[kernel] = static_cast<size_t>(bytes);
  return cudaSuccess;
}

int lane() { return static_cast<int>(device().current->index % 32); }
void* dynamic_shared() { return device().shared; }

const char* exchange(const void* mine, size_t bytes) {
  Device& d = device();
  const unsigned first = d.current->index / 32 * 32;
  Warp& warp = d.warps[first / 32];
  char* slots = warp.slots[warp.exchanges % 2];
  if (bytes > 0) std::memcpy(slots + static_cast<size_t>(lane()) * kSlotBytes, mine, bytes);
  if (++warp.arrived < 32) {
    give_way(Fate::kInExchange);
  } else {
    warp.arrived = 0;
    ++warp.exchanges;
    for (unsigned i = first; i < first + 32; ++i) {
      if (d.fibers[i].fate == Fate::kInExchange) d.fibers[i].fate = Fate::kRuns;
    }
  }
  return slots;
}

void mma_16x8x16(float* d, const uint32_t* a, const uint32_t* b, bool bf16) {
  struct Fragments {
    uint32_t a[4], b[2];
  } mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  Fragments all[32];
  const char* slots = exchange(&mine, sizeof mine);
  for (size_t i = 0; i < 32; ++i) std::memcpy(&all[i], slots + i * kSlotBytes, sizeof all[i]);
  const auto element = [bf16](uint32_t pair, int which) {
    const auto bits = static_cast<uint16_t>(which == 0 ? pair : pair >> 16);
    return bf16 ? unils::cuda::float_of_bf16(bits) : unils::cuda::float_of_fp16(bits);
  };
  const int group = lane() / 4, in_group = lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = group + (i / 2) * 8, column = in_group * 2 + i % 2;
    float sum = d[i];
    for (int k = 0; k < 16; ++k) {
      const int holder = k % 8 / 2;
      const float left = element(all[row % 8 * 4 + holder].a[row / 8 + k / 8 * 2], k % 2);
      const float right = element(all[column * 4 + holder].b[k / 8], k % 2);
      sum += left * right;
    }
    d[i] = sum;
  }
}

void permute(uint32_t seed) { device().seed = seed; }
void fail(int64_t calls, cudaError_t error, bool sticky) {
  Device& d = device();
  d.fail_in = calls, d.fail_with = error, d.fail_sticky = sticky;
  if (calls == 0) d.lost = cudaSuccess;
}
void set_device(int count, int major) { device().device_count = count, device().major = major; }
void limit_memory(size_t bytes) { device().memory_limit = bytes; }
Counts counts() { return device().counts; }

}  // namespace cuda_on_host

using namespace cuda_on_host;

void __syncthreads() { give_way(Fate::kAtBarrier); }

cudaError_t cudaGetDeviceCount(int* count) {
  CUDA_ON_HOST_BEGIN();
  *count = device().device_count;
  return *count == 0 ? ended(cudaErrorNoDevice) : cudaSuccess;
}
cudaError_t cudaGetDevice(int* number) {
  CUDA_ON_HOST_BEGIN();
  *number = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) {
  CUDA_ON_HOST_BEGIN();
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  CUDA_ON_HOST_BEGIN();
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "CUDA on the host");
  properties->totalGlobalMem = size_t{4} << 30;
  properties->sharedMemPerBlockOptin = 227 << 10;
  properties->major = device().major;
  properties->multiProcessorCount = 2;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  CUDA_ON_HOST_BEGIN();
  Device& d = device();
  bytes = std::max<size_t>(bytes, 1);
  if (d.memory_limit != 0 && d.memory_used + bytes > d.memory_limit) return ended(cudaErrorMemoryAllocation);
  void* made = kAsan ? std::malloc(bytes)
                     : mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (made == nullptr || made == MAP_FAILED) return ended(cudaErrorMemoryAllocation);
  std::memset(made, 0xff, bytes);  // as floats: not a number
  if (!kAsan) mprotect(made, bytes, PROT_NONE);
  d.memory[static_cast<char*>(made)] = bytes;
  d.memory_used += bytes;
  ++d.counts.allocations, ++d.counts.blocks_held;
  *memory = made;
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  const std::lock_guard<std::recursive_mutex> lock(device().mutex);
  Device& d = device();
  if (memory == nullptr) return cudaSuccess;
  const cudaError_t synchronized = cudaDeviceSynchronize();
  const auto held = d.memory.find(static_cast<char*>(memory));
  if (held == d.memory.end()) die("memory is freed that is not the device's");
  d.memory_used -= held->second;
  kAsan ? std::free(memory) : static_cast<void>(munmap(memory, held->second));
  d.memory.erase(held);
  --d.counts.blocks_held;
  return synchronized;  // of a device that is lost memory is gone all the same
}
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  CUDA_ON_HOST_BEGIN();
  *memory = std::malloc(std::max<size_t>(bytes, 1));
  if (*memory == nullptr) return ended(cudaErrorMemoryAllocation);
  std::memset(*memory, 0xff, bytes);
  device().pinned[static_cast<char*>(*memory)] = bytes;
  ++device().counts.allocations, ++device().counts.blocks_held;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  const std::lock_guard<std::recursive_mutex> lock(device().mutex);
  if (memory == nullptr) return cudaSuccess;
  const cudaError_t synchronized = cudaDeviceSynchronize();
  if (device().pinned.erase(static_cast<char*>(memory)) == 0) die("memory is freed that is not pinned");
  std::free(memory);
  --device().counts.blocks_held;
  return synchronized;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  CUDA_ON_HOST_BEGIN();
  check_copy(to, from, bytes, kind);
  // Memory that is not pinned is read before the call returns, and written before, too.
  if (kind == cudaMemcpyHostToDevice && !within(device().pinned, from, bytes)) {
    const auto* first = static_cast<const char*>(from);
    const auto staged = std::make_shared<std::vector<char>>(first, first + bytes);
    enqueue(stream, [=] { std::memcpy(to, staged->data(), bytes); });
    return cudaSuccess;
  }
  enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  if (kind == cudaMemcpyDeviceToHost && !within(device().pinned, to, bytes)) run_queue(stream);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  CUDA_ON_HOST_BEGIN();
  check_copy(to, from, bytes, kind);
  protect(PROT_READ | PROT_WRITE);
  std::memcpy(to, from, bytes);
  protect(PROT_NONE);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  CUDA_ON_HOST_BEGIN();
  if (!on_device(to, bytes)) die("memory is set that is not the device's");
  enqueue(stream, [=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  CUDA_ON_HOST_BEGIN();
  *stream = new CUstream_st;
  device().streams.insert(*stream);
  ++device().counts.objects_held;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard<std::recursive_mutex> lock(device().mutex);
  const cudaError_t synchronized = cudaStreamSynchronize(stream);
  device().streams.erase(stream);
  delete stream->capture;
  delete stream;
  --device().counts.objects_held;
  return synchronized;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  CUDA_ON_HOST_BEGIN();
  if (stream->capture != nullptr) return ended(cudaErrorStreamCaptureUnsupported);
  run_queue(stream);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  CUDA_ON_HOST_BEGIN();
  for (CUstream_st* stream : device().streams) run_queue(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  CUDA_ON_HOST_BEGIN();
  if (stream->capture != nullptr) return ended(cudaErrorStreamCaptureUnsupported);
  stream->capture = new CUgraph_st;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard<std::recursive_mutex> lock(device().mutex);
  *graph = nullptr;
  if (const cudaError_t begun = begin(); begun != cudaSuccess) {
    delete std::exchange(stream->capture, nullptr);
    return begun;
  }
  *graph = std::exchange(stream->capture, nullptr);
  ++device().counts.objects_held;
  return *graph != nullptr ? cudaSuccess : ended(cudaErrorStreamCaptureUnsupported);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  CUDA_ON_HOST_BEGIN();
  *executable = new CUgraphExec_st{graph->work};
  ++device().counts.objects_held;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  CUDA_ON_HOST_BEGIN();
  for (const Work& work : executable->work) enqueue(stream, work);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const std::lock_guard<std::recursive_mutex> lock(device().mutex);
  delete graph;
  --device().counts.objects_held;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  const std::lock_guard<std::recursive_mutex> lock(device().mutex);
  delete executable;
  --device().counts.objects_held;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorNoKernelImageForDevice: return "no kernel image is available for execution on the device";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    default: return "another error";
  }
}
