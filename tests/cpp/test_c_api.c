/* unils.h from C: it compiles as C11, and every entry point answers bad arguments with a status and a sentence. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unils/unils.h"

static int checks = 0, failures = 0;

static void check(int passed, int line, const char* what) {
  ++checks;
  if (passed) return;
  ++failures;
  fprintf(stderr, "test_c_api.c:%d: failed: %s (last error: %s)\n", line, what, unils_last_error());
}
#define CHECK(condition) check(!!(condition), __LINE__, #condition)
/* A call that must fail with this status and say this. */
#define CHECK_ERROR(call, status, text) \
  CHECK((call) == (status));            \
  CHECK(strstr(unils_last_error(), text) != NULL)
#define INVALID UNILS_ERROR_INVALID_ARGUMENT

static void test_constants_and_names(void) {
  CHECK(unils_abi_version() == UNILS_ABI_VERSION);
  CHECK(strcmp(unils_version(), "0.1.0") == 0);
  CHECK(strcmp(unils_status_name(UNILS_OK), "UNILS_OK") == 0);
  CHECK(strcmp(unils_status_name(UNILS_ERROR_NOT_FINITE), "UNILS_ERROR_NOT_FINITE") == 0);
  CHECK(unils_status_name((unils_status)77) != NULL);
}

static void test_backends(void) {
  CHECK(unils_backend_count() >= 1);
  unils_backend_info info = {0};
  CHECK_ERROR(unils_backend_get(0, NULL), INVALID, "NULL");
  CHECK_ERROR(unils_backend_get(0, &info), INVALID, "struct_size");
  info.struct_size = sizeof info;
  CHECK_ERROR(unils_backend_get(-1, &info), INVALID, "does not exist");
  CHECK_ERROR(unils_backend_get(unils_backend_count(), &info), INVALID, "does not exist");
  int cpu_found = 0;
  for (int32_t i = 0; i < unils_backend_count(); ++i) {
    CHECK(unils_backend_get(i, &info) == UNILS_OK);
    CHECK(info.name != NULL && info.detail != NULL);
    cpu_found |= strcmp(info.name, "cpu") == 0 && info.score > 0;
  }
  CHECK(cpu_found);
}

static void test_model(const char* bundle) {
  unils_model* model = (unils_model*)&model;
  CHECK_ERROR(unils_model_load(NULL, NULL, &model), INVALID, "bundle");
  CHECK(model == NULL);
  CHECK_ERROR(unils_model_load(bundle, NULL, NULL), INVALID, "model");
  CHECK_ERROR(unils_model_load("/there/is/no/such/bundle", NULL, &model), UNILS_ERROR_IO, "/there/is/no/such/bundle");
  unils_model_options options = {0};
  CHECK_ERROR(unils_model_load(bundle, &options, &model), INVALID, "struct_size");
  options.struct_size = sizeof options + 8;
  CHECK_ERROR(unils_model_load(bundle, &options, &model), INVALID, "struct_size");
  options.struct_size = sizeof options;
  CHECK_ERROR(unils_model_load(bundle, &options, &model), INVALID, "threads");
  options.threads = -3;
  CHECK_ERROR(unils_model_load(bundle, &options, &model), INVALID, "threads");
  options.threads = 1;
  options.backend = "abacus";
  CHECK_ERROR(unils_model_load(bundle, &options, &model), UNILS_ERROR_BACKEND, "abacus");
  CHECK(model == NULL);
  options.backend = "cpu";
  CHECK(unils_model_load(bundle, &options, &model) == UNILS_OK);
  CHECK(strcmp(unils_last_error(), "") == 0);

  unils_model_info info = {0};
  CHECK_ERROR(unils_model_get_info(NULL, &info), INVALID, "model");
  CHECK_ERROR(unils_model_get_info(model, NULL), INVALID, "info");
  info.struct_size = sizeof info - 1;
  CHECK_ERROR(unils_model_get_info(model, &info), INVALID, "struct_size");
  info.struct_size = sizeof info;
  CHECK(unils_model_get_info(model, &info) == UNILS_OK);
  CHECK(strcmp(info.family, "stream") == 0 && strcmp(info.rig, "arkit") == 0 && strcmp(info.backend, "cpu") == 0);
  CHECK(info.channels == 55 && info.sample_rate == 16000 && info.hop_samples == 640 && info.frame_rate == 25);
  CHECK(info.look_ahead_self_max == 8 && info.default_look_ahead_self == 1 && info.parameters > 0 &&
        info.weight_bytes > 0);
  CHECK(strstr(info.json, "\"unils-bundle\"") != NULL && strlen(info.backend_detail) > 0);
  CHECK(strcmp(unils_model_channel_name(model, 0), "channel0") == 0);
  CHECK(unils_model_channel_name(model, -1) == NULL && unils_model_channel_name(model, 55) == NULL);
  CHECK(unils_model_channel_name(NULL, 0) == NULL);
  unils_model_free(model);
  unils_model_free(NULL);
}

static void test_session_arguments(const char* bundle) {
  unils_model* model = NULL;
  CHECK(unils_model_load(bundle, NULL, &model) == UNILS_OK);
  unils_session_options options;
  CHECK_ERROR(unils_session_options_init(NULL, &options), INVALID, "model");
  CHECK_ERROR(unils_session_options_init(model, NULL), INVALID, "options");
  CHECK(unils_session_options_init(model, &options) == UNILS_OK);
  CHECK(options.struct_size == sizeof options && options.clock == UNILS_CLOCK_BOTH && options.look_ahead_self == 1);
  CHECK(options.temperature == 1.0f && options.cfg_scale == 1.5f && options.seed == 0 && options.style == NULL);

  unils_session* session = (unils_session*)&session;
  CHECK_ERROR(unils_session_create(NULL, NULL, &session), INVALID, "model");
  CHECK(session == NULL);
  CHECK_ERROR(unils_session_create(model, NULL, NULL), INVALID, "session");
  options.struct_size = 1;
  CHECK_ERROR(unils_session_create(model, &options, &session), INVALID, "struct_size");
  options.struct_size = sizeof options;
  options.look_ahead_other = 4;
  CHECK_ERROR(unils_session_create(model, &options, &session), INVALID,
              "look_ahead_other is 4 frames; this model takes 0 to 3");
  CHECK(unils_session_create(model, NULL, &session) == UNILS_OK);
  unils_model_free(model); /* the session goes on */

  const float audio[3] = {0.0f, NAN, 0.0f};
  int64_t n = 9;
  CHECK_ERROR(unils_session_push_audio(NULL, UNILS_TRACK_SELF, audio, UNILS_FLOAT32, 1, 16000, &n), INVALID, "session");
  CHECK(n == 0);
  CHECK_ERROR(unils_session_push_audio(session, UNILS_TRACK_SELF, audio, UNILS_FLOAT32, 1, 16000, NULL), INVALID,
              "taken");
  CHECK_ERROR(unils_session_push_audio(session, UNILS_TRACK_SELF, NULL, UNILS_FLOAT32, 1, 16000, &n), INVALID, "NULL");
  CHECK_ERROR(unils_session_push_audio(session, (unils_track)5, audio, UNILS_FLOAT32, 1, 16000, &n), INVALID,
              "track 5");
  CHECK_ERROR(unils_session_push_audio(session, UNILS_TRACK_SELF, audio, (unils_sample_format)9, 1, 16000, &n), INVALID,
              "format 9");
  CHECK_ERROR(unils_session_push_audio(session, UNILS_TRACK_SELF, audio, UNILS_FLOAT32, -1, 16000, &n), INVALID,
              "negative");
  CHECK_ERROR(unils_session_push_audio(session, UNILS_TRACK_SELF, audio, UNILS_FLOAT32, 1, 96001, &n), INVALID,
              "96001");
  CHECK_ERROR(unils_session_push_audio(session, UNILS_TRACK_SELF, audio, UNILS_FLOAT32, 3, 16000, &n),
              UNILS_ERROR_NOT_FINITE, "sample 1");
  CHECK(unils_session_push_audio(session, UNILS_TRACK_SELF, audio, UNILS_FLOAT32, 1, 16000, &n) == UNILS_OK && n == 1);
  CHECK_ERROR(unils_session_push_audio(session, UNILS_TRACK_SELF, audio, UNILS_FLOAT32, 1, 44100, &n), INVALID,
              "16000");

  unils_frames frames = {0};
  CHECK_ERROR(unils_session_pull_frames(NULL, &frames, 1, &n), INVALID, "session");
  CHECK_ERROR(unils_session_pull_frames(session, NULL, 1, &n), INVALID, "frames");
  CHECK_ERROR(unils_session_pull_frames(session, &frames, 1, NULL), INVALID, "count");
  CHECK_ERROR(unils_session_pull_frames(session, &frames, 1, &n), INVALID, "values");
  CHECK_ERROR(unils_session_pull_frames(session, &frames, -1, &n), INVALID, "capacity");
  CHECK(unils_session_pull_frames(session, &frames, 0, &n) == UNILS_OK && n == 0);
  CHECK_ERROR(unils_session_frames_ready(NULL, &n), INVALID, "session");
  CHECK_ERROR(unils_session_frames_ready(session, NULL), INVALID, "count");
  CHECK(unils_session_frames_ready(session, &n) == UNILS_OK && n == 0);

  CHECK_ERROR(unils_session_interrupt(NULL, &n), INVALID, "session");
  CHECK(unils_session_interrupt(session, NULL) == UNILS_OK);
  CHECK(unils_session_interrupt(session, &n) == UNILS_OK && n == 2);
  CHECK_ERROR(unils_session_finish(NULL), INVALID, "session");
  CHECK_ERROR(unils_session_reset(NULL), INVALID, "session");

  CHECK(unils_session_snapshot_bytes(NULL) == 0);
  const size_t bytes = unils_session_snapshot_bytes(session);
  char* state = (char*)malloc(bytes);
  CHECK_ERROR(unils_session_snapshot(NULL, state, bytes), INVALID, "session");
  CHECK_ERROR(unils_session_snapshot(session, NULL, bytes), INVALID, "buffer");
  CHECK_ERROR(unils_session_snapshot(session, state, bytes - 1), INVALID, "bytes");
  CHECK(unils_session_snapshot(session, state, bytes) == UNILS_OK);
  CHECK_ERROR(unils_session_restore(NULL, state, bytes), INVALID, "session");
  CHECK_ERROR(unils_session_restore(session, NULL, bytes), INVALID, "buffer");
  CHECK_ERROR(unils_session_restore(session, state, bytes - 1), INVALID, "bytes");
  CHECK(unils_session_restore(session, state, bytes) == UNILS_OK);
  free(state);

  unils_latency latency = {0};
  unils_stats stats = {0};
  CHECK_ERROR(unils_session_get_latency(NULL, &latency), INVALID, "session");
  CHECK_ERROR(unils_session_get_latency(session, NULL), INVALID, "latency");
  CHECK_ERROR(unils_session_get_latency(session, &latency), INVALID, "struct_size");
  CHECK_ERROR(unils_session_get_stats(NULL, &stats), INVALID, "session");
  CHECK_ERROR(unils_session_get_stats(session, NULL), INVALID, "stats");
  CHECK_ERROR(unils_session_get_stats(session, &stats), INVALID, "struct_size");
  latency.struct_size = sizeof latency;
  stats.struct_size = sizeof stats + 64; /* a newer caller's struct is larger */
  CHECK(unils_session_get_latency(session, &latency) == UNILS_OK && latency.total_ms == 80.0);
  CHECK(unils_session_get_stats(session, &stats) == UNILS_OK && stats.samples_self == 1);

  CHECK(unils_session_finish(session) == UNILS_OK);
  CHECK_ERROR(unils_session_push_audio(session, UNILS_TRACK_OTHER, audio, UNILS_FLOAT32, 1, 16000, &n),
              UNILS_ERROR_STATE, "finished");
  CHECK(unils_session_reset(session) == UNILS_OK);
  unils_session_free(session);
  unils_session_free(NULL);
}

/* A second of both tracks, pushed `piece` samples at a time; returns the frames made. */
static int64_t second_of_talk(unils_session* session, int64_t piece, float* values) {
  static int16_t audio[48000];
  for (int i = 0; i < 48000; ++i) audio[i] = (int16_t)(8000.0 * sin(i * 0.03) * sin(i * 0.0007));
  int64_t made = 0, taken = 0, count = 0;
  for (int64_t at = 0; at < 48000; at += piece) {
    const int64_t n = piece < 48000 - at ? piece : 48000 - at;
    CHECK(unils_session_push_audio(session, UNILS_TRACK_SELF, audio + at, UNILS_INT16, n, 48000, &taken) == UNILS_OK &&
          taken == n);
    CHECK(unils_session_push_audio(session, UNILS_TRACK_OTHER, audio + at, UNILS_INT16, n, 48000, &taken) == UNILS_OK &&
          taken == n);
    unils_frames frames = {values + made * 55, NULL, NULL, NULL};
    CHECK(unils_session_pull_frames(session, &frames, 30 - made, &count) == UNILS_OK);
    made += count;
  }
  CHECK(unils_session_finish(session) == UNILS_OK);
  unils_frames frames = {values + made * 55, NULL, NULL, NULL};
  CHECK(unils_session_pull_frames(session, &frames, 30 - made, &count) == UNILS_OK);
  return made + count;
}

static void test_frames(const char* bundle) {
  unils_model* model = NULL;
  unils_session* session = NULL;
  CHECK(unils_model_load(bundle, NULL, &model) == UNILS_OK);
  CHECK(unils_session_create(model, NULL, &session) == UNILS_OK);
  static float whole[30 * 55], pieces[30 * 55];
  CHECK(second_of_talk(session, 48000, whole) == 25);
  const int64_t cuts[] = {1, 37, 960, 4801};
  for (int i = 0; i < 4; ++i) {
    memset(pieces, 0, sizeof pieces);
    CHECK(unils_session_reset(session) == UNILS_OK);
    CHECK(second_of_talk(session, cuts[i], pieces) == 25);
    CHECK(memcmp(whole, pieces, sizeof whole) == 0);
  }
  int moving = 0;
  for (int i = 0; i < 25 * 55; ++i) {
    CHECK(whole[i] >= 0.0f && whole[i] <= 1.0f); /* blendshapes of rig arkit */
    moving += i >= 55 && whole[i] != whole[i - 55];
  }
  CHECK(moving > 100);
  unils_session_free(session);
  unils_model_free(model);
}

int c_api_main(const char* bundle) {
  test_constants_and_names();
  test_backends();
  test_model(bundle);
  test_session_arguments(bundle);
  test_frames(bundle);
  printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 && checks > 0 ? 0 : 1;
}
