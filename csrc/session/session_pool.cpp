#include "session/session_pool.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "model/model.h"
#include "session/pulling.h"

namespace unils {
namespace {

constexpr int kSessionsAPart = 8;  // prepared by one thread before it looks for more

}  // namespace

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
  UNILS_RETURN_IF_ERROR(engine.create_workspace(1, &made->style_workspace_));
  made->workers_ = std::make_unique<Workers>(model->threads());
  made->lane_workspaces_.resize(static_cast<size_t>(made->workers_->lanes()));
  for (auto& workspace : made->lane_workspaces_) UNILS_RETURN_IF_ERROR(engine.create_workspace(1, &workspace));
  for (int i = 0; i < max_sessions; ++i) {
    const EngineHome home = {made->states_->block(i), made->style_workspace_.get(), &made->style_mutex_};
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

void SessionPool::close(int place) {
  Place& at = places_[static_cast<size_t>(place)];
  at.state.store(kClosing);
  if (at.session->try_hold()) release(&at);  // else a pull holds it, and will see to it
}

// Whoever held a session that was closed meanwhile frees its place.
void SessionPool::release(Place* place) {
  place->session->let_go();
  int closing = kClosing;
  place->state.compare_exchange_strong(closing, kFree);
}

void SessionPool::hold_open_sessions() {
  for (int i = 0; i < max_sessions_; ++i) {
    Place& place = places_[static_cast<size_t>(i)];
    place.held = place.state.load() == kOpen && place.session->try_hold();
    if (place.held && place.state.load() != kOpen) {  // closed in between
      release(&place);
      place.held = false;
    }
    place.over = !place.held;
    place.generation = -1;
  }
}

void SessionPool::let_go() {
  for (int i = 0; i < max_sessions_; ++i) {
    Place& place = places_[static_cast<size_t>(i)];
    if (place.held) release(&place);
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
      stepping_[static_cast<size_t>((*batch)++)] = &place;
    } else {
      place.over = true;
      continue;
    }
    any = true;
  }
  return any;
}

template <typename Body>
void SessionPool::for_each(int count, const Body& body) {
  struct Call {
    const Body& body;
    int count;
  };
  const Call call = {body, count};
  const auto part = [](const void* of, int part, int lane) {
    const Call& c = *static_cast<const Call*>(of);
    const int end = std::min(c.count, (part + 1) * kSessionsAPart);
    for (int i = part * kSessionsAPart; i < end; ++i) c.body(static_cast<size_t>(i), static_cast<size_t>(lane));
  };
  workers_->run(part, &call, (count + kSessionsAPart - 1) / kSessionsAPart);
}

void SessionPool::end_round(const unils_frames& frames, int64_t* ids, int64_t* count, int batch) {
  for_each(batch, [this](size_t i, size_t lane) {
    StepRequest& request = requests_[i];
    request.status = stepping_[i]->session->begin_frame(*lane_workspaces_[lane], &request);
  });
  int begun = 0;
  for (int i = 0; i < batch; ++i) {
    const auto from = static_cast<size_t>(i), to = static_cast<size_t>(begun);
    if (!requests_[from].status.ok()) {
      fail(stepping_[from], requests_[from].status);
      continue;
    }
    std::swap(requests_[to], requests_[from]);
    std::swap(stepping_[to], stepping_[from]);
    ++begun;
  }
  if (begun == 0) return;
  const auto began = std::chrono::steady_clock::now();
  spec_.engine->step_batch(requests_.data(), begun, *workspace_);
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - began;
  for_each(begun, [this, each = took.count() / begun](size_t i, size_t) {
    requests_[i].status = stepping_[i]->session->end_frame(requests_[i], each);
  });
  for (int i = 0; i < begun; ++i) {
    Place& place = *stepping_[static_cast<size_t>(i)];
    const Status& ended = requests_[static_cast<size_t>(i)].status;
    if (!ended.ok()) {
      fail(&place, ended);
    } else if (place.session->frame_leaves()) {
      hand_over(&place, frames, ids, count);
    }
  }
}

Status SessionPool::push_audio(const void* sessions, SessionAt at, int count, int track, const void* samples, int format,
                               int64_t each, int sample_rate, int64_t* taken, int* failed) {
  *failed = -1;
  std::fill(taken, taken + count, int64_t{0});
  if (each < 0 || (samples == nullptr && each > 0 && count > 0)) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "samples is NULL or each is negative (%lld)", static_cast<long long>(each));
  }
  const auto* bytes = static_cast<const char*>(samples);
  const int64_t chunk = each * static_cast<int64_t>(format == UNILS_INT16 ? sizeof(int16_t) : sizeof(float));
  std::mutex mutex;  // of what follows
  Status first;
  for_each(count, [&](size_t i, size_t) {
    const int number = static_cast<int>(i);
    Status status = at(sessions, number).push_audio(track, bytes + number * chunk, format, each, sample_rate, &taken[i]);
    if (status.ok()) return;
    const std::lock_guard<std::mutex> lock(mutex);
    if (*failed >= 0 && *failed < number) return;
    *failed = number;
    first = std::move(status);
  });
  return first;
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
  size_t bytes = sizeof *this + static_cast<size_t>(workspace_->bytes() + style_workspace_->bytes()) +
                 requests_.capacity() * sizeof(StepRequest) + stepping_.capacity() * sizeof(Place*) +
                 static_cast<size_t>(max_sessions_) * sizeof(Place);
  for (const auto& workspace : lane_workspaces_) bytes += static_cast<size_t>(workspace->bytes());
  for (int i = 0; i < max_sessions_; ++i) bytes += places_[static_cast<size_t>(i)].session->bytes();
  return bytes;
}

}  // namespace unils
