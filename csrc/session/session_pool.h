// SessionPool: room for a number of sessions of family "stream", whose frames are made together: each reading of the
// weights then serves many of them. A session's frames are those that it would make alone, bit for bit.
//
// Threads: push_audio as in any session, open and close from any thread, pull from one at a time. Nobody waits for
// anybody: pull passes over a session that another call is inside, and a call that meets a pull is told to come again.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "core/arena.h"
#include "core/status.h"
#include "core/workers.h"
#include "session/session.h"

namespace unils {

class SessionPool {
 public:
  static constexpr int kMaxSessions = 16384;

  // All memory that it will ever hold. UNILS_ERROR_INVALID_ARGUMENT, UNILS_ERROR_BUNDLE, UNILS_ERROR_OUT_OF_MEMORY.
  static Status create(const std::shared_ptr<const Model>& model, int max_sessions,
                       std::unique_ptr<SessionPool>* pool);
  SessionPool(const SessionPool&) = delete;
  SessionPool& operator=(const SessionPool&) = delete;

  // Takes a free place for a new session; id: unlike that of any other session of this pool.
  // UNILS_ERROR_FULL, UNILS_ERROR_INVALID_ARGUMENT.
  Status open(const unils_session_options& options, int* place, int64_t* id);
  void close(int place);
  Session& session(int place) { return *places_[static_cast<size_t>(place)].session; }

  // A push of one track for each of `count` sessions, shared among the pool's threads: samples (count, each); at: the
  // i-th of `sessions`. taken: (count). Where one fails the others are made; the status is that of the first that failed,
  // whose index is *failed, else -1.
  using SessionAt = Session& (*)(const void* sessions, int i);
  Status push_audio(const void* sessions, SessionAt at, int count, int track, const void* samples, int format,
                    int64_t each, int sample_rate, int64_t* taken, int* failed);

  // Makes frames in rounds: in each, every session that can make one makes one, in one batch, until none can or `capacity`
  // frames are out; the next pull begins where this one ended. ids: (capacity), whose frame it is. Those of one session
  // are in their order and of one generation. A session that fails is left out of the rest of the pull, and the failure
  // is the result of the next pull, or of this one when it has no frame.
  Status pull(const unils_frames& frames, int64_t* ids, int64_t capacity, int64_t* count);
  Status frames_ready(int64_t* count);

  const unils_session_options& default_options() const { return default_options_; }
  int max_sessions() const { return max_sessions_; }
  int sessions() const;
  size_t bytes() const;

 private:
  enum State : int { kFree, kOpening, kOpen, kClosing };
  struct Place {
    std::unique_ptr<Session> session;
    std::atomic<int> state{kFree};
    std::atomic<int64_t> id{0};
    // Of the pull that runs.
    bool held = false, over = false;  // over: has no more frames in it
    int64_t generation = -1;          // of the frames that were handed over
  };

  SessionPool(SessionSpec spec, const unils_session_options& options, int max_sessions)
      : spec_(std::move(spec)),
        default_options_(options),
        max_sessions_(max_sessions),
        places_(new Place[static_cast<size_t>(max_sessions)]) {}

  static void release(Place* place);
  void hold_open_sessions();
  void let_go();
  // Chooses whose frames are made next, handing over what need not be made first; false: nothing is left to do.
  bool begin_round(const unils_frames& frames, int64_t* ids, int64_t capacity, int64_t* count, int* batch);
  // Makes them.
  void end_round(const unils_frames& frames, int64_t* ids, int64_t* count, int batch);
  // body(i, lane) for i < count, on the pool's threads.
  template <typename Body>
  void for_each(int count, const Body& body);
  void hand_over(Place* place, const unils_frames& frames, int64_t* ids, int64_t* count);
  void fail(Place* place, const Status& status);

  SessionSpec spec_;  // with the engine that steps the batches
  unils_session_options default_options_;
  int max_sessions_;
  std::unique_ptr<StepStates> states_;        // of all places
  std::unique_ptr<StepWorkspace> workspace_;  // of batches
  std::vector<std::unique_ptr<StepWorkspace>> lane_workspaces_;  // of the threads that prepare them
  std::unique_ptr<StepWorkspace> style_workspace_;               // of whoever opens or resets a session
  std::mutex style_mutex_;
  std::unique_ptr<Workers> workers_;
  std::unique_ptr<Place[]> places_;
  std::vector<StepRequest> requests_;  // (max_sessions)
  std::vector<Place*> stepping_;       // (max_sessions): whose they are
  int first_ = 0;  // whose turn it is
  Status failure_;
  std::atomic<int64_t> last_id_{0};
  std::atomic<bool> pulling_{false};
};

}  // namespace unils
