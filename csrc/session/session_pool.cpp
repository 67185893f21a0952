#include "session/session_pool.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "model/model.h"
#include "session/pulling.h"

namespace unils {

Status SessionPool::create(const std::shared_ptr<const Model>& model, int max_sessions,
                           std::unique_ptr<SessionPool>* pool) {
  if (max_sessions < 1 || max_sessions > kMaxSessions) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "max_sessions is %d; a pool has room for 1 to %d", max_sessions,
                 kMaxSessions);
  }
  const unils_session_options options = SessionSpec::default_options(*model);
  SessionSpec spec;
  UNILS_RETURN_IF_ERROR(SessionSpec::from_model(model, &spec));
  if (spec.engine == nullptr) {
    return Status(UNILS_ERROR_INVALID_ARGUMENT,
                  "a pool steps sessions of family stream; a session of family published makes whole blocks of frames, "
                  "of two faces at once if need be");
  }
  std::unique_ptr<SessionPool> made(new SessionPool(std::move(spec), options, max_sessions));
  made->requests_.resize(static_cast<size_t>(max_sessions));
  made->stepping_.resize(static_cast<size_t>(max_sessions));
  const StepEngine& engine = *made->spec_.engine;
  UNILS_RETURN_IF_ERROR(engine.create_states(max_sessions, &made->states_));
  UNILS_RETURN_IF_ERROR(engine.create_workspace(max_sessions, &made->workspace_));
  UNILS_RETURN_IF_ERROR(engine.create_workspace(1, &made->own_workspace_));
  for (int i = 0; i < max_sessions; ++i) {
    const EngineHome home = {made->states_->block(i), made->own_workspace_.get(), &made->own_workspace_mutex_};
    UNILS_RETURN_IF_ERROR(Session::create_reopenable(made->spec_, options, home,
                                                     &made->places_[static_cast<size_t>(i)].session));
  }
  *pool = std::move(made);
  return Status();
}

Status SessionPool::open(const unils_session_options& options, int* place, int64_t* id) {
  for (int i = 0; i < max_sessions_; ++i) {
    Place& at = places_[static_cast<size_t>(i)];
    int free = kFree;
    if (!at.state.compare_exchange_strong(free, kOpening)) continue;
    Status status = at.session->reopen(spec_, options);
    if (!status.ok()) {
      at.state.store(kFree);
      return status;
    }
    *place = i;
    *id = ++last_id_;
    at.id.store(*id);
    at.state.store(kOpen);
    return Status();
  }
  return error(UNILS_ERROR_FULL, "this pool has room for %d sessions and all are open; free one, or make a larger pool",
               max_sessions_);
}

// Whoever holds the session last frees its place.
void SessionPool::close(int place) {
  Place& at = places_[static_cast<size_t>(place)];
  at.state.store(kClosing);
  if (!at.session->try_hold()) return;  // a pull does, and will see to it
  at.session->let_go();
  int closing = kClosing;
  at.state.compare_exchange_strong(closing, kFree);
}

void SessionPool::hold_open_sessions() {
  for (int i = 0; i < max_sessions_; ++i) {
    Place& place = places_[static_cast<size_t>(i)];
    place.held = place.state.load() == kOpen && place.session->try_hold();
    if (place.held && place.state.load() != kOpen) {  // closed in between
      place.session->let_go();
      place.held = false;
    }
    place.over = !place.held;
    place.generation = -1;
  }
}

void SessionPool::let_go() {
  for (int i = 0; i < max_sessions_; ++i) {
    Place& place = places_[static_cast<size_t>(i)];
    if (!place.held) continue;
    place.session->let_go();
    int closing = kClosing;
    place.state.compare_exchange_strong(closing, kFree);
  }
}

void SessionPool::fail(Place* place, const Status& status) {
  place->over = true;
  if (!failure_.ok()) return;
  failure_ = error(status.code(), "session %lld of the pool: %s", static_cast<long long>(place->id.load()),
                   status.sentence().c_str());
}

// A frame of another generation than those before it waits for the next pull.
void SessionPool::hand_over(Place* place, const unils_frames& frames, int64_t* ids, int64_t* count) {
  const int64_t generation = place->session->leaving_generation();
  if (place->generation >= 0 && place->generation != generation) {
    place->over = true;
    return;
  }
  place->generation = generation;
  place->session->hand_over(frames, *count);
  ids[(*count)++] = place->id.load();
}

bool SessionPool::begin_round(const unils_frames& frames, int64_t* ids, int64_t capacity, int64_t* count,
                              int* batch) {
  bool any = false;
  *batch = 0;
  for (int i = 0; i < max_sessions_; ++i) {
    const int turn = (first_ + i) % max_sessions_;
    Place& place = places_[static_cast<size_t>(turn)];
    if (place.over) continue;
    if (*count + *batch == capacity) {
      first_ = turn;
      break;
    }
    if (place.session->frame_leaves()) {
      hand_over(&place, frames, ids, count);
    } else if (place.session->frame_can_be_made()) {
      StepRequest& request = requests_[static_cast<size_t>(*batch)];
      const Status begun = place.session->begin_frame(&request);
      if (begun.ok()) {
        stepping_[static_cast<size_t>((*batch)++)] = &place;
      } else {
        fail(&place, begun);
      }
    } else {
      place.over = true;
      continue;
    }
    any = true;
  }
  return any;
}

void SessionPool::end_round(const unils_frames& frames, int64_t* ids, int64_t* count, int batch) {
  if (batch == 0) return;
  const auto began = std::chrono::steady_clock::now();
  spec_.engine->step_batch(requests_.data(), batch, *workspace_);
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - began;
  for (int i = 0; i < batch; ++i) {
    Place& place = *stepping_[static_cast<size_t>(i)];
    const Status ended = place.session->end_frame(requests_[static_cast<size_t>(i)], took.count() / batch);
    if (!ended.ok()) {
      fail(&place, ended);
    } else if (place.session->frame_leaves()) {
      hand_over(&place, frames, ids, count);
    }
  }
}

Status SessionPool::pull(const unils_frames& frames, int64_t* ids, int64_t capacity, int64_t* count) {
  *count = 0;
  if (capacity < 0 || (capacity > 0 && (frames.values == nullptr || ids == nullptr))) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "frames->values or frames->session is NULL, or capacity is negative (%lld)",
                 static_cast<long long>(capacity));
  }
  const Pulling pulling(pulling_);
  UNILS_RETURN_IF_ERROR(pulling.status());
  if (failure_.ok()) {
    hold_open_sessions();
    int batch = 0;
    while (*count < capacity && begin_round(frames, ids, capacity, count, &batch)) {
      end_round(frames, ids, count, batch);
    }
    let_go();
    if (*count > 0) return Status();
  }
  return std::exchange(failure_, Status());
}

Status SessionPool::frames_ready(int64_t* count) {
  *count = 0;
  const Pulling pulling(pulling_);
  UNILS_RETURN_IF_ERROR(pulling.status());
  hold_open_sessions();
  for (int i = 0; i < max_sessions_; ++i) {
    const Place& place = places_[static_cast<size_t>(i)];
    if (place.held) *count += place.session->frames_that_can_leave();
  }
  let_go();
  return Status();
}

int SessionPool::sessions() const {
  return static_cast<int>(std::count_if(places_.get(), places_.get() + max_sessions_,
                                        [](const Place& place) { return place.state.load() != kFree; }));
}

size_t SessionPool::bytes() const {
  size_t bytes = sizeof *this + static_cast<size_t>(workspace_->bytes() + own_workspace_->bytes()) + requests_.capacity() * sizeof(StepRequest) +
                 stepping_.capacity() * sizeof(Place*) + static_cast<size_t>(max_sessions_) * sizeof(Place);
  for (int i = 0; i < max_sessions_; ++i) bytes += places_[static_cast<size_t>(i)].session->bytes();
  return bytes;
}

}  // namespace unils
