#include "engine/step_engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "engine/state_layout.h"
#include "features/framer.h"
#include "model/model.h"

namespace unils {
namespace {

static_assert(StepEngine::kMaxRewindRows == StateLayout::kMaxRewindRows);

bool all_finite(const float* values, int64_t count) {
  return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

const char* track_name(Track track) { return track == Track::kSelf ? "self" : "other"; }

// Of StepCounts::waiting.
enum Waiting : int64_t { kNothing, kLogMel, kHop };

Status answer(unils_status status, const unils_sentence& why) {
  return status == UNILS_OK ? Status() : Status(status, why.text);
}

class BackendStates final : public StepStates {
 public:
  BackendStates(std::shared_ptr<const Model> model, void* blocks, size_t block_bytes)
      : model_(std::move(model)), blocks_(blocks), block_bytes_(block_bytes) {}
  ~BackendStates() override { model_->backend().states_free(model_->backend_model(), blocks_); }
  void* block(int state) const override { return static_cast<char*>(blocks_) + static_cast<size_t>(state) * block_bytes_; }

 private:
  std::shared_ptr<const Model> model_;
  void* blocks_;  // only the backend may follow it
  size_t block_bytes_;
};

class BackendWorkspace final : public StepWorkspace {
 public:
  BackendWorkspace(std::shared_ptr<const Model> model, unils_backend_workspace* workspace)
      : backend(workspace), model_(std::move(model)) {}
  ~BackendWorkspace() override { model_->backend().workspace_free(backend); }
  int64_t bytes() const override {
    return static_cast<int64_t>(host.bytes()) + model_->backend().workspace_bytes(backend);
  }

  unils_backend_workspace* const backend;
  Arena host;
  // In it: a batch's requests to the backend, and what the framer works in.
  unils_row_request* rows = nullptr;
  unils_step_request* steps = nullptr;
  float *line = nullptr, *log_mel = nullptr;
  double* framer_scratch = nullptr;

 private:
  std::shared_ptr<const Model> model_;
};

class BackendStepEngine final : public StepEngine {
 public:
  explicit BackendStepEngine(std::shared_ptr<const Model> model)
      : model_(std::move(model)),
        sizes_(model_->config().sizes),
        layout_(sizes_, model_->config().features()),
        framer_(LogMelConfig::of(model_->config().features()), model_->config().hop_samples) {
    ArenaLayout arena;
    arena.add<StepCounts>(1);
    for (size_t& row : waiting_) {
      row = arena.add<float>(static_cast<size_t>(std::max(sizes_.row_values, hop_samples())));
    }
    counts_bytes_ = arena.bytes();
  }

  size_t counts_bytes() const override { return counts_bytes_; }
  size_t block_bytes() const override { return layout_.bytes; }
  int hop_samples() const override { return model_->config().hop_samples; }
  int row_values() const override { return sizes_.row_values; }
  int channels() const override { return sizes_.channels; }

  Status create_states(int count, std::unique_ptr<StepStates>* states) const override {
    void* blocks = nullptr;
    unils_sentence why = {};
    UNILS_RETURN_IF_ERROR(answer(backend().states_create(model_->backend_model(), count, &blocks, &why), why));
    *states = std::make_unique<BackendStates>(model_, blocks, layout_.bytes);
    return Status();
  }

  Status create_workspace(int states, std::unique_ptr<StepWorkspace>* workspace) const override {
    unils_backend_workspace* made = nullptr;
    unils_sentence why = {};
    UNILS_RETURN_IF_ERROR(answer(backend().workspace_create(model_->backend_model(), states, &made, &why), why));
    auto owner = std::make_unique<BackendWorkspace>(model_, made);
    ArenaLayout arena;
    const size_t rows = arena.add<unils_row_request>(2 * static_cast<size_t>(states));
    const size_t steps = arena.add<unils_step_request>(static_cast<size_t>(states));
    const size_t line = arena.add<float>(framer_.scratch_floats());
    const size_t log_mel = arena.add<float>(static_cast<size_t>(sizes_.row_values));
    const size_t framer_scratch = arena.add<double>(framer_.scratch_doubles());
    UNILS_RETURN_IF_ERROR(Arena::create(arena.bytes(), &owner->host));
    owner->rows = owner->host.at<unils_row_request>(rows);
    owner->steps = owner->host.at<unils_step_request>(steps);
    owner->line = owner->host.at<float>(line);
    owner->log_mel = owner->host.at<float>(log_mel);
    owner->framer_scratch = owner->host.at<double>(framer_scratch);
    *workspace = std::move(owner);
    return Status();
  }

  Status read_block(const void* block, void* bytes) const override {
    unils_sentence why = {};
    return answer(backend().state_read(model_->backend_model(), block, bytes, &why), why);
  }

  Status write_block(void* block, const void* bytes) const override {
    unils_sentence why = {};
    return answer(backend().state_write(model_->backend_model(), block, bytes, &why), why);
  }

  Status reset(StepState state) const override {
    std::memset(state.counts, 0, counts_bytes_);
    unils_sentence why = {};
    return answer(backend().reset(model_->backend_model(), state.block, &why), why);
  }

  Status set_style(StepState state, StepWorkspace& workspace, const float* motion, int64_t frames) const override {
    if (frame(state) != 0) {
      return error(UNILS_ERROR_STATE, "style can only be set before the first frame; reset the session first");
    }
    if (motion == nullptr || frames < UNILS_STYLE_MIN_FRAMES || frames > UNILS_STYLE_MAX_FRAMES) {
      return error(UNILS_ERROR_INVALID_ARGUMENT, "style has %lld frames; give %d to %d (1 to 20 seconds)",
                   static_cast<long long>(frames), UNILS_STYLE_MIN_FRAMES, UNILS_STYLE_MAX_FRAMES);
    }
    if (!all_finite(motion, frames * sizes_.channels)) {
      return error(UNILS_ERROR_INVALID_ARGUMENT, "style holds a value that is not finite");
    }
    unils_sentence why = {};
    return answer(backend().set_style(model_->backend_model(), state.block, of(workspace).backend, motion, frames, &why),
                  why);
  }

  int64_t frame(StepState state) const override { return counts_of(state)->frame; }
  int64_t rows(StepState state, Track track) const override { return counts_of(state)->rows[static_cast<int>(track)]; }

  Status push_hop(StepState state, StepWorkspace& workspace, Track track, const float* hop) const override {
    UNILS_RETURN_IF_ERROR(check_next_row(state, track));
    if (backend().hears_hops != 0) return append(state, workspace, track, kHop, hop, hop_samples());
    const BackendWorkspace& work = of(workspace);
    make_row(state, work, track, rows(state, track), hop);
    return append(state, workspace, track, kLogMel, work.log_mel, sizes_.row_values);
  }

  Status push_row(StepState state, StepWorkspace& workspace, Track track, const float* log_mel) const override {
    UNILS_RETURN_IF_ERROR(check_next_row(state, track));
    return append(state, workspace, track, kLogMel, log_mel, sizes_.row_values);
  }

  Status rewind_rows(StepState state, Track track, int64_t row) const override {
    StepCounts* counts = counts_of(state);
    int64_t& rows = counts->rows[static_cast<int>(track)];
    const int64_t furthest = counts->furthest_rows[static_cast<int>(track)];
    if (row < 0 || row > rows || row < furthest - kMaxRewindRows) {
      return error(UNILS_ERROR_STATE,
                   "track %s cannot go back to row %lld: it has %lld rows and keeps %d behind row %lld",
                   track_name(track), static_cast<long long>(row), static_cast<long long>(rows), kMaxRewindRows,
                   static_cast<long long>(furthest));
    }
    if (row < rows) counts->waiting[static_cast<int>(track)] = kNothing;
    rows = row;
    return Status();
  }

  void step_batch(StepRequest* requests, int count, StepWorkspace& workspace) const override {
    bool any = false;
    for (int i = 0; i < count; ++i) {
      requests[i].status = check_params(*counts_of(requests[i].state), *requests[i].params);
      any = any || requests[i].status.ok();
    }
    if (!any) return;
    const Status status = step_good(requests, count, of(workspace));
    for (int i = 0; i < count; ++i) {
      StepRequest& request = requests[i];
      if (!request.status.ok()) continue;
      request.status = status.ok() ? count_frame(request) : status;
    }
  }

 private:
  static BackendWorkspace& of(StepWorkspace& workspace) { return static_cast<BackendWorkspace&>(workspace); }
  const unils_backend& backend() const { return model_->backend(); }
  StepCounts* counts_of(StepState state) const { return static_cast<StepCounts*>(state.counts); }

  int max_look_ahead(Track track) const {
    return track == Track::kSelf ? sizes_.look_ahead_self_max : sizes_.look_ahead_other_max;
  }

  Status check_next_row(StepState state, Track track) const {
    const StepCounts& counts = *counts_of(state);
    const int64_t row = counts.rows[static_cast<int>(track)];
    if (row <= counts.frame + max_look_ahead(track)) return Status();
    return error(UNILS_ERROR_STATE, "row %lld of track %s is further ahead of frame %lld than any look-ahead; step first",
                 static_cast<long long>(row), track_name(track), static_cast<long long>(counts.frame));
  }

  Status append(StepState state, StepWorkspace& workspace, Track track, Waiting kind, const float* values,
                int count) const {
    StepCounts* counts = counts_of(state);
    const int t = static_cast<int>(track);
    if (!all_finite(values, count)) {
      return error(UNILS_ERROR_NOT_FINITE, "row %lld of track %s holds a value that is not finite",
                   static_cast<long long>(counts->rows[t]), track_name(track));
    }
    if (counts->waiting[t] != kNothing) {
      BackendWorkspace& work = of(workspace);
      const int32_t waiting = waiting_rows(state, work, work.rows);
      UNILS_RETURN_IF_ERROR(run(work, waiting, 0));
      counts->waiting[0] = counts->waiting[1] = kNothing;
    }
    std::copy(values, values + count, arena_at<float>(state.counts, waiting_[t]));
    counts->waiting[t] = kind;
    ++counts->rows[t];
    counts->furthest_rows[t] = std::max(counts->furthest_rows[t], counts->rows[t]);
    return Status();
  }

  // Requests for the rows of a state that wait; returns how many. A hop can wait where the backend hears rows only: in a
  // snapshot that another backend left.
  int32_t waiting_rows(StepState state, const BackendWorkspace& work, unils_row_request* requests) const {
    const StepCounts& counts = *counts_of(state);
    int32_t count = 0;
    for (const Track track : {Track::kSelf, Track::kOther}) {
      const int t = static_cast<int>(track);
      const int64_t row = counts.rows[t] - 1;
      if (counts.waiting[t] == kNothing || row < 0) continue;
      float* values = arena_at<float>(state.counts, waiting_[t]);
      const bool hop = counts.waiting[t] == kHop;
      if (hop && backend().hears_hops == 0) {
        make_row(state, work, track, row, values);
        std::copy(work.log_mel, work.log_mel + sizes_.row_values, values);
        counts_of(state)->waiting[t] = kLogMel;
      }
      const bool heard = hop && backend().hears_hops != 0;
      requests[count++] = {state.block, static_cast<unils_track>(track), row, heard ? nullptr : values,
                           heard ? values : nullptr};
    }
    return count;
  }

  // The log-mel row of a hop, into the workspace.
  void make_row(StepState state, const BackendWorkspace& work, Track track, int64_t row, const float* hop) const {
    framer_.row(arena_at<float>(state.block, layout_.history[static_cast<int>(track)]), work.line, work.framer_scratch,
                row, hop, work.log_mel);
  }

  Status run(const BackendWorkspace& work, int32_t rows, int32_t steps) const {
    unils_sentence why = {};
    return answer(
        backend().run(model_->backend_model(), work.backend, work.rows, rows, work.steps, steps, &why), why);
  }

  // Those of the requests whose status is good.
  Status step_good(const StepRequest* requests, int count, const BackendWorkspace& work) const {
    int32_t rows = 0, steps = 0;
    for (int i = 0; i < count; ++i) {
      if (!requests[i].status.ok()) continue;
      const StepParams& params = *requests[i].params;
      rows += waiting_rows(requests[i].state, work, work.rows + rows);
      work.steps[steps++] = {requests[i].state.block,
                             frame(requests[i].state),
                             params.look_ahead_self,
                             params.look_ahead_other,
                             params.temperature,
                             params.top_p,
                             params.cfg_scale,
                             params.seed,
                             requests[i].motion,
                             params.logits};
    }
    UNILS_RETURN_IF_ERROR(run(work, rows, steps));
    for (int i = 0; i < count; ++i) {
      if (!requests[i].status.ok()) continue;
      StepCounts* counts = counts_of(requests[i].state);
      counts->waiting[0] = counts->waiting[1] = kNothing;
    }
    return Status();
  }

  Status count_frame(const StepRequest& request) const {
    StepCounts* counts = counts_of(request.state);
    if (!all_finite(request.motion, sizes_.channels)) {
      return error(UNILS_ERROR_BUNDLE, "frame %lld is not finite: the weights of this model overflow; export it again",
                   static_cast<long long>(counts->frame));
    }
    ++counts->frame;
    if (request.params->cfg_scale != 1.0f) ++counts->guided_frames;
    return Status();
  }

  Status check_params(const StepCounts& counts, const StepParams& params) const {
    for (const Track track : {Track::kSelf, Track::kOther}) {
      const int look_ahead = track == Track::kSelf ? params.look_ahead_self : params.look_ahead_other;
      if (look_ahead < 0 || look_ahead > max_look_ahead(track)) {
        return error(UNILS_ERROR_INVALID_ARGUMENT,
                     "look-ahead of track %s is %d frames; this model was trained for 0 to %d", track_name(track),
                     look_ahead, max_look_ahead(track));
      }
      const int64_t needed = counts.frame + 1 + look_ahead;
      if (counts.rows[static_cast<int>(track)] < needed) {
        return error(UNILS_ERROR_STATE, "frame %lld needs %lld rows of track %s; %lld were pushed",
                     static_cast<long long>(counts.frame), static_cast<long long>(needed), track_name(track),
                     static_cast<long long>(counts.rows[static_cast<int>(track)]));
      }
    }
    if (!(params.temperature >= 0.0f) || !std::isfinite(params.temperature)) {
      return error(UNILS_ERROR_INVALID_ARGUMENT, "temperature is %g; it must be 0 (greedy) or more",
                   static_cast<double>(params.temperature));
    }
    if (!(params.top_p > 0.0f && params.top_p <= 1.0f)) {
      return error(UNILS_ERROR_INVALID_ARGUMENT, "top_p is %g; it must be above 0 and at most 1",
                   static_cast<double>(params.top_p));
    }
    if (!(params.cfg_scale >= 0.0f) || !std::isfinite(params.cfg_scale)) {
      return error(UNILS_ERROR_INVALID_ARGUMENT, "cfg_scale is %g; it must be 0 or more",
                   static_cast<double>(params.cfg_scale));
    }
    // The row without audio remembers its own past, which is not there if it was not computed.
    if (params.cfg_scale != 1.0f && counts.guided_frames != counts.frame) {
      return error(UNILS_ERROR_STATE,
                   "guidance cannot be switched on after frames made without it; reset the session first");
    }
    if (params.cfg_scale == 1.0f && counts.guided_frames != 0) {
      return error(UNILS_ERROR_STATE,
                   "guidance cannot be switched off after frames made with it; reset the session first");
    }
    return Status();
  }

  std::shared_ptr<const Model> model_;
  const unils_stream_sizes& sizes_;
  StateLayout layout_;
  Framer framer_;  // for backends that hear log-mel rows only
  size_t waiting_[2] = {}, counts_bytes_ = 0;
};

}  // namespace

Status StepEngine::create(std::shared_ptr<const Model> model, std::shared_ptr<const StepEngine>* engine) {
  const Config& config = model->config();
  const LogMelConfig features = LogMelConfig::of(config.features());
  UNILS_RETURN_IF_ERROR(Framer::check(features, config.hop_samples));
  const int row_values = config.hop_samples / features.step_samples * features.mels;
  if (row_values != config.sizes.row_values) {
    return error(UNILS_ERROR_BUNDLE, "the bundle's features do not fit its weights: %d values a row against %d",
                 row_values, config.sizes.row_values);
  }
  *engine = std::make_shared<BackendStepEngine>(std::move(model));
  return Status();
}

}  // namespace unils
