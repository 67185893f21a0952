#include "engine/step_engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "engine/state_layout.h"
#include "model/model.h"

namespace unils {
namespace {

static_assert(StepEngine::kMaxRewindRows == StateLayout::kMaxRewindRows);

bool all_finite(const float* values, int64_t count) {
  return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

const char* track_name(Track track) { return track == Track::kSelf ? "self" : "other"; }

class BackendStepEngine final : public StepEngine {
 public:
  explicit BackendStepEngine(std::shared_ptr<const Model> model)
      : model_(std::move(model)), sizes_(model_->config().sizes), layout_(sizes_) {}

  size_t state_bytes() const override { return layout_.bytes; }
  size_t workspace_bytes(int states) const override {
    return Requests(states).bytes + model_->backend().workspace_bytes(model_->backend_model(), states);
  }
  int row_values() const override { return sizes_.row_values; }
  int channels() const override { return sizes_.channels; }

  void reset(void* state) const override {
    std::memset(state, 0, layout_.bytes);
    model_->backend().reset(model_->backend_model(), state);
  }

  Status set_style(void* state, void* workspace, const float* motion, int64_t frames) const override {
    if (frame(state) != 0) {
      return error(UNILS_ERROR_STATE, "style can only be set before the first frame; reset the session first");
    }
    if (frames == 0) {
      model_->backend().reset(model_->backend_model(), state);
      return Status();
    }
    if (motion == nullptr || frames < UNILS_STYLE_MIN_FRAMES || frames > UNILS_STYLE_MAX_FRAMES) {
      return error(UNILS_ERROR_INVALID_ARGUMENT, "style has %lld frames; give %d to %d (1 to 20 seconds)",
                   static_cast<long long>(frames), UNILS_STYLE_MIN_FRAMES, UNILS_STYLE_MAX_FRAMES);
    }
    if (!all_finite(motion, frames * sizes_.channels)) {
      return error(UNILS_ERROR_INVALID_ARGUMENT, "style holds a value that is not finite");
    }
    unils_sentence why = {};
    const unils_status status =
        model_->backend().set_style(model_->backend_model(), state, workspace, motion, frames, &why);
    return status == UNILS_OK ? Status() : Status(status, why.text);
  }

  int64_t frame(const void* state) const override { return layout_.header_of(state)->frame; }
  int64_t rows(const void* state, Track track) const override {
    return layout_.header_of(state)->rows[static_cast<int>(track)];
  }

  Status push_row(void* state, void* workspace, Track track, const float* log_mel) const override {
    StateHeader* header = layout_.header_of(state);
    const int t = static_cast<int>(track);
    const int64_t row = header->rows[t];
    if (row > header->frame + max_look_ahead(track)) {
      return error(UNILS_ERROR_STATE,
                   "row %lld of track %s is further ahead of frame %lld than any look-ahead; step first",
                   static_cast<long long>(row), track_name(track), static_cast<long long>(header->frame));
    }
    if (!all_finite(log_mel, sizes_.row_values)) {
      return error(UNILS_ERROR_NOT_FINITE, "row %lld of track %s holds a value that is not finite",
                   static_cast<long long>(row), track_name(track));
    }
    if (waits(*header, track)) {
      unils_row_request waiting[2];
      const int32_t count = waiting_rows(state, waiting);
      UNILS_RETURN_IF_ERROR(encode(waiting, count, workspace));
    }
    std::copy(log_mel, log_mel + sizes_.row_values, arena_at<float>(state, layout_.waiting_row[t]));
    header->last_row_waits[t] = 1;
    ++header->rows[t];
    header->furthest_rows[t] = std::max(header->furthest_rows[t], header->rows[t]);
    return Status();
  }

  Status rewind_rows(void* state, Track track, int64_t row) const override {
    StateHeader* header = layout_.header_of(state);
    int64_t& rows = header->rows[static_cast<int>(track)];
    const int64_t furthest = header->furthest_rows[static_cast<int>(track)];
    if (row < 0 || row > rows || row < furthest - kMaxRewindRows) {
      return error(UNILS_ERROR_STATE,
                   "track %s cannot go back to row %lld: it has %lld rows and keeps %d behind row %lld",
                   track_name(track), static_cast<long long>(row), static_cast<long long>(rows), kMaxRewindRows,
                   static_cast<long long>(furthest));
    }
    if (row < rows) header->last_row_waits[static_cast<int>(track)] = 0;
    rows = row;
    return Status();
  }

  void step_batch(StepRequest* requests, int count, void* workspace) const override {
    bool any = false;
    for (int i = 0; i < count; ++i) {
      requests[i].status = check_params(*layout_.header_of(requests[i].state), *requests[i].params);
      any = any || requests[i].status.ok();
    }
    if (!any) return;
    const Status status = step_good(requests, count, workspace);
    for (int i = 0; i < count; ++i) {
      StepRequest& request = requests[i];
      if (!request.status.ok()) continue;
      request.status = status.ok() ? count_frame(request) : status;
    }
  }

 private:
  // Where a batch's requests to the backend lie, in the workspace before what the backend needs.
  struct Requests {
    size_t rows, steps, bytes;
    explicit Requests(int states) {
      ArenaLayout arena;
      rows = arena.add<unils_row_request>(2 * static_cast<size_t>(states));
      steps = arena.add<unils_step_request>(static_cast<size_t>(states));
      bytes = arena.bytes();
    }
  };

  int max_look_ahead(Track track) const {
    return track == Track::kSelf ? sizes_.look_ahead_self_max : sizes_.look_ahead_other_max;
  }

  static bool waits(const StateHeader& header, Track track) {
    return header.last_row_waits[static_cast<int>(track)] != 0 && header.rows[static_cast<int>(track)] > 0;
  }

  // Requests for the rows of a state that wait; returns how many.
  int32_t waiting_rows(void* state, unils_row_request* requests) const {
    const StateHeader* header = layout_.header_of(state);
    int32_t count = 0;
    for (const Track track : {Track::kSelf, Track::kOther}) {
      const int t = static_cast<int>(track);
      if (!waits(*header, track)) continue;
      requests[count++] = {state, static_cast<unils_track>(track), header->rows[t] - 1,
                           arena_at<float>(state, layout_.waiting_row[t])};
    }
    return count;
  }

  Status encode(const unils_row_request* requests, int32_t count, void* workspace) const {
    if (count == 0) return Status();
    unils_sentence why = {};
    const unils_status status = model_->backend().push_rows(model_->backend_model(), requests, count, workspace, &why);
    if (status != UNILS_OK) return Status(status, why.text);
    for (int32_t i = 0; i < count; ++i) layout_.header_of(requests[i].state)->last_row_waits[requests[i].track] = 0;
    return Status();
  }

  // Those of the requests whose status is good.
  Status step_good(const StepRequest* requests, int count, void* workspace) const {
    const Requests lie(count);
    auto* rows = arena_at<unils_row_request>(workspace, lie.rows);
    auto* steps = arena_at<unils_step_request>(workspace, lie.steps);
    void* backend_workspace = arena_at<char>(workspace, lie.bytes);
    int32_t row_count = 0, step_count = 0;
    for (int i = 0; i < count; ++i) {
      if (!requests[i].status.ok()) continue;
      const StepParams& params = *requests[i].params;
      row_count += waiting_rows(requests[i].state, rows + row_count);
      steps[step_count++] = {requests[i].state,
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
    UNILS_RETURN_IF_ERROR(encode(rows, row_count, backend_workspace));
    unils_sentence why = {};
    const unils_status status =
        model_->backend().step(model_->backend_model(), steps, step_count, backend_workspace, &why);
    return status == UNILS_OK ? Status() : Status(status, why.text);
  }

  Status count_frame(const StepRequest& request) const {
    StateHeader* header = layout_.header_of(request.state);
    if (!all_finite(request.motion, sizes_.channels)) {
      return error(UNILS_ERROR_BUNDLE, "frame %lld is not finite: the weights of this model overflow; export it again",
                   static_cast<long long>(header->frame));
    }
    ++header->frame;
    if (request.params->cfg_scale != 1.0f) ++header->guided_frames;
    return Status();
  }

  Status check_params(const StateHeader& header, const StepParams& params) const {
    for (const Track track : {Track::kSelf, Track::kOther}) {
      const int look_ahead = track == Track::kSelf ? params.look_ahead_self : params.look_ahead_other;
      if (look_ahead < 0 || look_ahead > max_look_ahead(track)) {
        return error(UNILS_ERROR_INVALID_ARGUMENT,
                     "look-ahead of track %s is %d frames; this model was trained for 0 to %d", track_name(track),
                     look_ahead, max_look_ahead(track));
      }
      const int64_t needed = header.frame + 1 + look_ahead;
      if (header.rows[static_cast<int>(track)] < needed) {
        return error(UNILS_ERROR_STATE, "frame %lld needs %lld rows of track %s; %lld were pushed",
                     static_cast<long long>(header.frame), static_cast<long long>(needed), track_name(track),
                     static_cast<long long>(header.rows[static_cast<int>(track)]));
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
    if (params.cfg_scale != 1.0f && header.guided_frames != header.frame) {
      return error(UNILS_ERROR_STATE,
                   "guidance cannot be switched on after frames made without it; reset the session first");
    }
    if (params.cfg_scale == 1.0f && header.guided_frames != 0) {
      return error(UNILS_ERROR_STATE,
                   "guidance cannot be switched off after frames made with it; reset the session first");
    }
    return Status();
  }

  std::shared_ptr<const Model> model_;
  const unils_stream_sizes& sizes_;
  StateLayout layout_;
};

}  // namespace

Status StepEngine::create(std::shared_ptr<const Model> model, std::unique_ptr<StepEngine>* engine) {
  engine->reset(new (std::nothrow) BackendStepEngine(std::move(model)));
  return *engine != nullptr ? Status() : error(UNILS_ERROR_OUT_OF_MEMORY, "there is not enough memory for a session");
}

}  // namespace unils
