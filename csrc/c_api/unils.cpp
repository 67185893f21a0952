// The C interface: pointers checked, exceptions stopped, statuses kept. Every decision is made elsewhere.
#include "unils/unils.h"

#include <exception>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "backends/plugin.h"
#include "backends/registry.h"
#include "c_api/last_error.h"
#include "core/int_of.h"
#include "core/status.h"
#include "model/model.h"
#include "session/session.h"
#include "session/session_pool.h"

struct unils_model {
  std::shared_ptr<const unils::Model> model;
};

struct unils_session {
  std::unique_ptr<unils::Session> owned;
  unils::Session* session = nullptr;
  unils::SessionPool* pool = nullptr;  // that owns it instead
  int place = 0;
};

struct unils_pool {
  std::unique_ptr<unils::SessionPool> pool;
  std::unique_ptr<unils_session[]> sessions;  // by place
};

namespace {

using unils::error;
using unils::Status;

// Runs one entry point: whatever happens inside ends as a status.
template <typename Body>
unils_status run(Body&& body) noexcept {
  try {
    return unils::keep_error(body());
  } catch (const std::bad_alloc&) {
    return unils::keep_error(Status(UNILS_ERROR_OUT_OF_MEMORY, "out of memory"));
  } catch (const std::exception& exception) {
    return unils::keep_error(error(UNILS_ERROR_INTERNAL, "unexpected: %s; please report it", exception.what()));
  } catch (...) {
    return unils::keep_error(Status(UNILS_ERROR_INTERNAL, "unexpected exception; please report it"));
  }
}

Status is_null(const char* argument) {
  return error(UNILS_ERROR_INVALID_ARGUMENT, "%s is NULL; it is required", argument);
}

// A struct from a caller older than this library is too small; one from a newer caller may be larger.
Status check_output_size(size_t size, size_t wanted, const char* type) {
  if (size >= wanted) return Status();
  return error(UNILS_ERROR_INVALID_ARGUMENT, "%s.struct_size is %zu; set it to sizeof(%s), %zu here", type, size, type,
               wanted);
}

// Fields of a newer caller that this library does not know would be ignored in silence, so they are refused.
Status check_input_size(size_t size, size_t wanted, const char* type) {
  if (size == wanted) return Status();
  return error(UNILS_ERROR_INVALID_ARGUMENT, "%s.struct_size is %zu; set it to sizeof(%s), %zu in this version", type,
               size, type, wanted);
}

}  // namespace

#define UNILS_REQUIRE(pointer) \
  if ((pointer) == nullptr) return is_null(#pointer)
#define UNILS_OUTPUT(pointer, type) \
  UNILS_REQUIRE(pointer);           \
  UNILS_RETURN_IF_ERROR(check_output_size((pointer)->struct_size, sizeof(type), #type))
#define UNILS_INPUT(pointer, type) \
  UNILS_RETURN_IF_ERROR(check_input_size((pointer)->struct_size, sizeof(type), #type))

extern "C" {

uint32_t unils_abi_version(void) { return UNILS_ABI_VERSION; }

const char* unils_version(void) { return UNILS_VERSION; }

const char* unils_status_name(unils_status status) {
  switch (unils::int_of(status)) {
    case UNILS_OK: return "UNILS_OK";
    case UNILS_ERROR_INVALID_ARGUMENT: return "UNILS_ERROR_INVALID_ARGUMENT";
    case UNILS_ERROR_STATE: return "UNILS_ERROR_STATE";
    case UNILS_ERROR_BUSY: return "UNILS_ERROR_BUSY";
    case UNILS_ERROR_IO: return "UNILS_ERROR_IO";
    case UNILS_ERROR_BUNDLE: return "UNILS_ERROR_BUNDLE";
    case UNILS_ERROR_BACKEND: return "UNILS_ERROR_BACKEND";
    case UNILS_ERROR_OUT_OF_MEMORY: return "UNILS_ERROR_OUT_OF_MEMORY";
    case UNILS_ERROR_NOT_FINITE: return "UNILS_ERROR_NOT_FINITE";
    case UNILS_ERROR_INTERNAL: return "UNILS_ERROR_INTERNAL";
    case UNILS_ERROR_FULL: return "UNILS_ERROR_FULL";
  }
  return "unknown status";
}

const char* unils_last_error(void) { return unils::last_error(); }

int32_t unils_backend_count(void) { return unils::backend_count(); }

unils_status unils_backend_get(int32_t index, unils_backend_info* info) {
  return run([&]() -> Status {
    UNILS_OUTPUT(info, unils_backend_info);
    if (index < 0 || index >= unils::backend_count()) {
      return error(UNILS_ERROR_INVALID_ARGUMENT, "backend %d does not exist; there are %d", index,
                   unils::backend_count());
    }
    const unils::BackendInfo backend = unils::backend_info(index);
    info->name = backend.name;
    info->detail = backend.detail;
    info->score = backend.score;
    info->plugin = backend.plugin;
    return Status();
  });
}

unils_status unils_plugin_folder(const char* folder) {
  return run([&]() -> Status {
    UNILS_REQUIRE(folder);
    return unils::name_plugin_folder(folder);
  });
}

unils_status unils_model_load(const char* bundle, const unils_model_options* options, unils_model** model) {
  return run([&]() -> Status {
    UNILS_REQUIRE(model);
    *model = nullptr;
    UNILS_REQUIRE(bundle);
    const char* backend = nullptr;
    int32_t threads = 1;
    const unils_graph_runner* runner = nullptr;
    unils_precision precision = UNILS_FP32;
    if (options != nullptr) {
      UNILS_INPUT(options, unils_model_options);
      backend = options->backend;
      threads = options->threads;
      runner = options->graph_runner;
      precision = options->precision;
    }
    if (unils::int_of(precision) < UNILS_FP32 || unils::int_of(precision) > UNILS_BF16) {
      return error(UNILS_ERROR_INVALID_ARGUMENT, "precision is %d; it can be UNILS_FP32, UNILS_FP16 or UNILS_BF16",
                   unils::int_of(precision));
    }
    if (threads < 1 || threads > 1024) {
      return error(UNILS_ERROR_INVALID_ARGUMENT, "threads is %d; it can be 1 to 1024", threads);
    }
    auto made = std::make_unique<unils_model>();
    UNILS_RETURN_IF_ERROR(unils::Model::load(bundle, backend, threads, &made->model, runner, precision));
    *model = made.release();
    return Status();
  });
}

void unils_model_free(unils_model* model) { delete model; }

unils_status unils_model_get_info(const unils_model* model, unils_model_info* info) {
  return run([&]() -> Status {
    UNILS_REQUIRE(model);
    UNILS_OUTPUT(info, unils_model_info);
    const unils::Model& from = *model->model;
    const unils::Config& config = from.config();
    info->family = config.family.c_str();
    info->rig = config.rig.c_str();
    info->backend = from.backend_name();
    info->backend_detail = from.backend_detail().c_str();
    info->json = from.json().c_str();
    info->channels = static_cast<int32_t>(config.channels.size());
    info->sample_rate = config.sample_rate;
    info->hop_samples = config.hop_samples;
    info->frame_rate = config.frame_rate;
    const bool published = config.family == "published";
    const int rolling_max = config.published.look_ahead_max();
    info->look_ahead_self_max = published ? rolling_max : config.sizes.look_ahead_self_max;
    info->look_ahead_other_max = published ? rolling_max : config.sizes.look_ahead_other_max;
    info->default_temperature = config.default_temperature;
    info->default_top_p = config.default_top_p;
    info->default_cfg_scale = config.default_cfg_scale;
    info->default_look_ahead_self = config.default_look_ahead_self;
    info->default_look_ahead_other = config.default_look_ahead_other;
    info->parameters = from.parameters();
    info->weight_bytes = from.weight_bytes();
    info->window_frames = published ? config.published.window_frames : 1;
    return Status();
  });
}

const char* unils_model_channel_name(const unils_model* model, int32_t channel) {
  if (model == nullptr) return nullptr;
  const std::vector<std::string>& channels = model->model->config().channels;
  if (channel < 0 || static_cast<size_t>(channel) >= channels.size()) return nullptr;
  return channels[static_cast<size_t>(channel)].c_str();
}

unils_status unils_model_device_put(const unils_model* model, const float* values, int64_t count,
                                    unils_device_array* array) {
  return run([&]() -> Status {
    UNILS_REQUIRE(model);
    UNILS_OUTPUT(array, unils_device_array);
    array->data = nullptr;
    if (count < 0 || (values == nullptr && count > 0)) {
      return error(UNILS_ERROR_INVALID_ARGUMENT, "values is NULL or count is negative (%lld)",
                   static_cast<long long>(count));
    }
    return model->model->device_put(values, count, array);
  });
}

void unils_model_device_free(const unils_model* model, void* data) {
  if (model != nullptr) model->model->device_free(data);
}

unils_status unils_session_options_init(const unils_model* model, unils_session_options* options) {
  return run([&]() -> Status {
    UNILS_REQUIRE(model);
    UNILS_REQUIRE(options);
    *options = unils::SessionSpec::default_options(*model->model);
    return Status();
  });
}

unils_status unils_session_create(const unils_model* model, const unils_session_options* options,
                                  unils_session** session) {
  return run([&]() -> Status {
    UNILS_REQUIRE(session);
    *session = nullptr;
    UNILS_REQUIRE(model);
    const unils_session_options defaults = unils::SessionSpec::default_options(*model->model);
    if (options != nullptr) UNILS_INPUT(options, unils_session_options);
    unils::SessionSpec spec;
    UNILS_RETURN_IF_ERROR(unils::SessionSpec::from_model(model->model, &spec));
    auto made = std::make_unique<unils_session>();
    UNILS_RETURN_IF_ERROR(
        unils::Session::create(std::move(spec), options != nullptr ? *options : defaults, &made->owned));
    made->session = made->owned.get();
    *session = made.release();
    return Status();
  });
}

void unils_session_free(unils_session* session) {
  if (session != nullptr && session->pool != nullptr) {
    session->pool->close(session->place);
  } else {
    delete session;
  }
}

unils_status unils_session_push_audio(unils_session* session, unils_track track, const void* samples,
                                      unils_sample_format format, int64_t count, int32_t sample_rate, int64_t* taken) {
  const int track_number = unils::int_of(track);
  const int format_number = unils::int_of(format);
  return run([&]() -> Status {
    UNILS_REQUIRE(taken);
    *taken = 0;
    UNILS_REQUIRE(session);
    return session->session->push_audio(track_number, samples, format_number, count, sample_rate, taken);
  });
}

unils_status unils_session_pull_frames(unils_session* session, const unils_frames* frames, int64_t capacity,
                                       int64_t* count) {
  return run([&]() -> Status {
    UNILS_REQUIRE(count);
    *count = 0;
    UNILS_REQUIRE(session);
    UNILS_REQUIRE(frames);
    if (session->pool != nullptr) {
      return error(UNILS_ERROR_STATE, "the frames of this session come from its pool; call unils_pool_pull");
    }
    return session->session->pull_frames(*frames, capacity, count);
  });
}

unils_status unils_session_frames_ready(const unils_session* session, int64_t* count) {
  return run([&]() -> Status {
    UNILS_REQUIRE(count);
    *count = 0;
    UNILS_REQUIRE(session);
    return session->session->frames_ready(count);
  });
}

unils_status unils_session_interrupt(unils_session* session, int64_t* generation) {
  return run([&]() -> Status {
    UNILS_REQUIRE(session);
    int64_t raised = 0;
    UNILS_RETURN_IF_ERROR(session->session->interrupt(&raised));
    if (generation != nullptr) *generation = raised;
    return Status();
  });
}

unils_status unils_session_finish(unils_session* session) {
  return run([&]() -> Status {
    UNILS_REQUIRE(session);
    return session->session->finish();
  });
}

unils_status unils_session_reset(unils_session* session) {
  return run([&]() -> Status {
    UNILS_REQUIRE(session);
    return session->session->reset();
  });
}

size_t unils_session_snapshot_bytes(const unils_session* session) {
  return session == nullptr ? 0 : session->session->snapshot_bytes();
}

unils_status unils_session_snapshot(unils_session* session, void* buffer, size_t bytes) {
  return run([&]() -> Status {
    UNILS_REQUIRE(session);
    UNILS_REQUIRE(buffer);
    return session->session->snapshot(buffer, bytes);
  });
}

unils_status unils_session_restore(unils_session* session, const void* buffer, size_t bytes) {
  return run([&]() -> Status {
    UNILS_REQUIRE(session);
    UNILS_REQUIRE(buffer);
    return session->session->restore(buffer, bytes);
  });
}

unils_status unils_pool_create(const unils_model* model, const unils_pool_options* options, unils_pool** pool) {
  return run([&]() -> Status {
    UNILS_REQUIRE(pool);
    *pool = nullptr;
    UNILS_REQUIRE(model);
    UNILS_REQUIRE(options);
    UNILS_INPUT(options, unils_pool_options);
    auto made = std::make_unique<unils_pool>();
    UNILS_RETURN_IF_ERROR(unils::SessionPool::create(model->model, options->max_sessions, &made->pool));
    made->sessions = std::make_unique<unils_session[]>(static_cast<size_t>(options->max_sessions));
    for (int i = 0; i < options->max_sessions; ++i) {
      unils_session& session = made->sessions[static_cast<size_t>(i)];
      session.session = &made->pool->session(i);
      session.pool = made->pool.get();
      session.place = i;
    }
    *pool = made.release();
    return Status();
  });
}

void unils_pool_free(unils_pool* pool) { delete pool; }

unils_status unils_pool_session(unils_pool* pool, const unils_session_options* options, unils_session** session,
                                int64_t* id) {
  return run([&]() -> Status {
    UNILS_REQUIRE(session);
    *session = nullptr;
    UNILS_REQUIRE(id);
    *id = 0;
    UNILS_REQUIRE(pool);
    if (options != nullptr) UNILS_INPUT(options, unils_session_options);
    int place = 0;
    UNILS_RETURN_IF_ERROR(
        pool->pool->open(options != nullptr ? *options : pool->pool->default_options(), &place, id));
    *session = &pool->sessions[static_cast<size_t>(place)];
    return Status();
  });
}

unils_status unils_pool_push_audio(unils_pool* pool, unils_session* const* sessions, int32_t count, unils_track track,
                                   const void* samples, unils_sample_format format, int64_t each, int32_t sample_rate,
                                   int64_t* taken, int32_t* failed) {
  const int track_number = unils::int_of(track);
  const int format_number = unils::int_of(format);
  return run([&]() -> Status {
    int first = -1;
    if (failed != nullptr) *failed = first;
    UNILS_REQUIRE(pool);
    UNILS_REQUIRE(sessions);
    UNILS_REQUIRE(taken);
    if (count < 0) return error(UNILS_ERROR_INVALID_ARGUMENT, "count is negative (%d)", count);
    for (int32_t i = 0; i < count; ++i) {
      if (sessions[i] != nullptr && sessions[i]->pool == pool->pool.get()) continue;
      return error(UNILS_ERROR_INVALID_ARGUMENT, "sessions[%d] is not a session of this pool", i);
    }
    const auto at = [](const void* all, int i) -> unils::Session& {
      return *static_cast<unils_session* const*>(all)[i]->session;
    };
    Status status = pool->pool->push_audio(sessions, at, count, track_number, samples, format_number, each, sample_rate,
                                           taken, &first);
    if (failed != nullptr) *failed = first;
    return status;
  });
}

unils_status unils_pool_pull(unils_pool* pool, const unils_pool_frames* frames, int64_t capacity, int64_t* count) {
  return run([&]() -> Status {
    UNILS_REQUIRE(count);
    *count = 0;
    UNILS_REQUIRE(pool);
    UNILS_REQUIRE(frames);
    return pool->pool->pull(frames->frames, frames->session, capacity, count);
  });
}

unils_status unils_pool_frames_ready(unils_pool* pool, int64_t* count) {
  return run([&]() -> Status {
    UNILS_REQUIRE(count);
    *count = 0;
    UNILS_REQUIRE(pool);
    return pool->pool->frames_ready(count);
  });
}

unils_status unils_pool_get_stats(const unils_pool* pool, unils_pool_stats* stats) {
  return run([&]() -> Status {
    UNILS_REQUIRE(pool);
    UNILS_OUTPUT(stats, unils_pool_stats);
    stats->max_sessions = pool->pool->max_sessions();
    stats->sessions = pool->pool->sessions();
    stats->bytes = pool->pool->bytes();
    return Status();
  });
}

unils_status unils_session_get_latency(const unils_session* session, unils_latency* latency) {
  return run([&]() -> Status {
    UNILS_REQUIRE(session);
    UNILS_OUTPUT(latency, unils_latency);
    return session->session->get_latency(latency);
  });
}

unils_status unils_session_get_stats(const unils_session* session, unils_stats* stats) {
  return run([&]() -> Status {
    UNILS_REQUIRE(session);
    UNILS_OUTPUT(stats, unils_stats);
    return session->session->get_stats(stats);
  });
}

}  // extern "C"
