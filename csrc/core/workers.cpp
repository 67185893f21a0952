#include "core/workers.h"

#include <algorithm>

namespace unils {

Workers::Workers(int lanes) {
  threads_.reserve(static_cast<size_t>(std::max(0, lanes - 1)));
  try {
    for (int lane = 1; lane < lanes; ++lane) threads_.emplace_back(&Workers::work, this);
  } catch (...) {
    stop();
    throw;
  }
}

Workers::~Workers() { stop(); }

void Workers::stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Workers::run(Part part, const void* call, int parts) {
  std::unique_lock<std::mutex> use(in_use_, std::defer_lock);
  if (parts <= 1 || threads_.empty() || !use.try_lock()) {
    for (int i = 0; i < parts; ++i) part(call, i, 0);
    return;
  }
  std::unique_lock<std::mutex> lock(mutex_);
  part_ = part, call_ = call, next_ = 0, parts_ = parts, joined_ = 0;
  for (int i = 1; i < std::min(parts, lanes()); ++i) wake_.notify_one();
  take_parts(0, &lock);
  done_.wait(lock, [this] { return working_ == 0; });
}

void Workers::work() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || next_ < parts_; });
    if (stopping_) return;
    ++working_;
    take_parts(++joined_, &lock);
    if (--working_ == 0) done_.notify_one();
  }
}

// Until none is left: so nobody joins a call twice.
void Workers::take_parts(int lane, std::unique_lock<std::mutex>* lock) {
  while (next_ < parts_) {
    const int mine = next_++;
    lock->unlock();
    part_(call_, mine, lane);
    lock->lock();
  }
}

}  // namespace unils
