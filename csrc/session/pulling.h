// Pulling: the puller's side of a session or pool, for one call. Not a mutex: whoever comes second is told, and does not
// wait.
#pragma once
#include <atomic>

#include "core/status.h"

namespace unils {

class Pulling {
 public:
  explicit Pulling(std::atomic<bool>& flag) : flag_(flag), mine_(!flag.exchange(true, std::memory_order_acquire)) {}
  ~Pulling() {
    if (mine_) flag_.store(false, std::memory_order_release);
  }
  Pulling(const Pulling&) = delete;
  Pulling& operator=(const Pulling&) = delete;
  Status status() const {
    if (mine_) return Status();
    return error(UNILS_ERROR_BUSY,
                 "another thread is inside this session or pool; only push_audio may run beside another call, so give "
                 "each one pulling thread, and call a pool's sessions from it or try again");
  }

 private:
  std::atomic<bool>& flag_;
  bool mine_;
};

}  // namespace unils
