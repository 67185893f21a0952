// Workers: threads that share the parts of a call with whoever makes it. They sleep between calls.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace unils {

class Workers {
 public:
  // What one thread does with part `part` of a call. `lane` tells it from the other threads of this call: there are no
  // more lanes than parts, nor than lanes().
  using Part = void (*)(const void* call, int part, int lane);

  // lanes - 1 threads; throws what std::thread throws.
  explicit Workers(int lanes);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  int lanes() const { return static_cast<int>(threads_.size()) + 1; }
  // Runs parts [0, parts), the caller as lane 0; returns when all are done. It never waits for a thread that has not
  // begun: the caller takes what is left, all of it when another call has the workers. Allocates nothing.
  void run(Part part, const void* call, int parts);

 private:
  void work();
  void take_parts(int lane, std::unique_lock<std::mutex>* lock);
  void stop();

  std::mutex in_use_;  // held by the call that has the workers
  std::mutex mutex_;   // of what follows
  std::condition_variable wake_, done_;
  Part part_ = nullptr;
  const void* call_ = nullptr;
  int next_ = 0, parts_ = 0;   // parts [next_, parts_) are not taken yet
  int joined_ = 0;             // threads that joined the caller
  int working_ = 0;            // those of them that are not done
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace unils
