/* unils.h - the C interface of libunils: two audio tracks of a conversation in, facial motion at 25 frames/s out.
 *
 *   unils_model* model;     unils_model_load("bundle", NULL, &model);
 *   unils_session* session; unils_session_create(model, NULL, &session);
 *   unils_session_push_audio(session, UNILS_TRACK_OTHER, mic, UNILS_INT16, n, 48000, &taken);
 *   unils_session_pull_frames(session, &frames, capacity, &count);
 *
 * Every function returns a status and never aborts, prints, exits or throws. After a failure unils_last_error()
 * holds, for the calling thread, one sentence: what was wrong and what to do about it.
 *
 * Threads. A model is immutable and may be shared by any number of sessions and threads. On one session, one thread
 * per track may push and one thread may do everything else, at the same time. A second concurrent pusher on a track,
 * or a second thread in any other call, is refused with UNILS_ERROR_BUSY; nothing is corrupted. Only
 * unils_session_free needs the session to itself.
 * A push never waits for another call. Beside it, pull, frames_ready, interrupt, get_latency and get_stats do not wait
 * either; a push in flight while interrupt runs counts as pushed before it. finish, reset, snapshot and restore wait
 * for a push in flight, and a push that meets one of them takes nothing, as if the ring were full.
 * A pool is pulled by one thread, and its sessions are made and freed by any. A call on one of its sessions other than
 * push is BUSY while a pull has the session, so make it from the pulling thread or try again; a pull passes over a
 * session that another call is inside. Nobody waits: pushers go on whatever the pool does.
 *
 * Ownership. Whoever creates frees: unils_model_free, unils_session_free, unils_pool_free. A session or pool keeps its
 * model alive. Buffers passed in are borrowed for the duration of the call only. Strings returned are owned by the
 * library; each says how long it lives.
 */
#ifndef UNILS_UNILS_H
#define UNILS_UNILS_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define UNILS_API __declspec(dllexport)
#else
#define UNILS_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define UNILS_ABI_VERSION 1

typedef enum unils_status {
  UNILS_OK = 0,
  UNILS_ERROR_INVALID_ARGUMENT = 1, /* a value, pointer, rate or track that cannot be used */
  UNILS_ERROR_STATE = 2,            /* right call, wrong moment: push after finish, say */
  UNILS_ERROR_BUSY = 3,             /* a second thread on a single-thread entry point */
  UNILS_ERROR_IO = 4,               /* a file is missing or cannot be read */
  UNILS_ERROR_BUNDLE = 5,           /* a bundle that is truncated, oversized, inconsistent or hostile */
  UNILS_ERROR_BACKEND = 6,          /* a backend that is absent or failed */
  UNILS_ERROR_OUT_OF_MEMORY = 7,
  UNILS_ERROR_NOT_FINITE = 8,       /* NaN or infinite audio; nothing of that push was taken */
  UNILS_ERROR_INTERNAL = 9,
  UNILS_ERROR_FULL = 10 /* every place of a pool is taken */
} unils_status;

typedef enum unils_track { UNILS_TRACK_SELF = 0, UNILS_TRACK_OTHER = 1 } unils_track;
typedef enum unils_sample_format { UNILS_INT16 = 0, UNILS_FLOAT32 = 1 } unils_sample_format;

/* When frame t may be made.
 * BOTH : both tracks have reached it (plus their look-ahead).
 * OTHER: the other track has. Own audio that is missing is silence; own audio pushed early waits for its turn; own
 *        audio that comes late starts at the next frame to be made. Look-ahead on self hears what has been pushed, and
 *        silence beyond; when more comes, it hears that. So here, and only here, frames depend on when own audio was
 *        pushed between two pulls.
 * SELF : own audio has. The other track is silence and refuses audio.
 *
 * Tracks that drift apart. Time is counted in samples and nothing is stretched or dropped: under BOTH the track that is
 * ahead waits in its ring (10 s), and when that is full its pushes take less. unils_stats.skew_samples tells how far
 * apart the tracks are. For two devices with clocks of their own use OTHER, or resample one to the other. */
typedef enum unils_clock { UNILS_CLOCK_BOTH = 0, UNILS_CLOCK_OTHER = 1, UNILS_CLOCK_SELF = 2 } unils_clock;

typedef struct unils_model unils_model;
typedef struct unils_session unils_session;
typedef struct unils_pool unils_pool;

/* Where a callback writes one sentence. */
typedef struct unils_sentence {
  char text[512];
} unils_sentence;

/* What a graph of a bundle reads or writes: dense, row-major memory of the library, borrowed for one call. */
typedef enum unils_element { UNILS_ELEMENT_FLOAT32 = 0, UNILS_ELEMENT_INT64 = 1 } unils_element;
#define UNILS_MAX_RANK 8
typedef struct unils_tensor_view {
  const char* name;
  unils_element element;
  int32_t rank;
  int64_t shape[UNILS_MAX_RANK];
  void* data; /* an input is only read */
} unils_tensor_view;

/* The family "published" is a set of ONNX graphs (docs/published.md), a bundle of family "stream" may hold its model as
 * graphs too (docs/onnx.md), and this library holds no engine for them: the host plugs one in. The Python package does so
 * with ONNX Runtime. Sampling, guidance, quantisation, windows and clocks stay in the library, so every runner makes the
 * same frames up to its rounding.
 * `context` and the table must live until unils_model_load returns; what `load` made, until `unload`. Models may run
 * graphs from several threads at once. Callbacks must not throw or call back into the model or its sessions. */
typedef struct unils_graph {
  const char* name; /* "audio_encoder", "prefill", "step", "codec_encode" and "codec_decode", or "encode", "step" and
                     * "decode" of family "stream" */
  const char* path; /* of its .onnx file, whose SHA-256 has been checked; weights may lie in files beside it */
} unils_graph;
typedef struct unils_graph_runner {
  size_t struct_size;
  const char* name; /* of the backend that it is, "onnxruntime" */
  void* context;
  /* Opens the graphs of one bundle. `say`: what it uses ("CPUExecutionProvider"), or why it failed. */
  unils_status (*load)(void* context, const unils_graph* graphs, int32_t count, int32_t threads, void** loaded,
                       unils_sentence* say);
  /* Runs one graph. Every input and output is given, of the shape that the graph has for these inputs. `audio` comes
   * whole and is in pieces in the files: audio[i, c, p] is their tensor "audio.i.c.p", to be bound where it lies. */
  unils_status (*run)(void* loaded, const char* graph, const unils_tensor_view* inputs, int32_t input_count,
                      const unils_tensor_view* outputs, int32_t output_count, unils_sentence* why);
  void (*unload)(void* loaded);
  /* Both or neither: memory, aligned to 256 bytes, for tensors that graphs alone read and write: a device's, say. The
   * library asks for it as a session is made, hands out addresses within it and never follows one. NULL: the host's. */
  unils_status (*allocate)(void* loaded, size_t bytes, void** memory, unils_sentence* why);
  void (*release)(void* loaded, void* memory);
} unils_graph_runner;

/* Of matrix products; sums are float32 in each. */
typedef enum unils_precision { UNILS_FP32 = 0, UNILS_FP16 = 1, UNILS_BF16 = 2 } unils_precision;

/* Options and info structs begin with their size, so that later versions can append fields. Set it to sizeof(struct)
 * yourself, or call the *_init function. */
typedef struct unils_model_options {
  size_t struct_size;
  const char* backend; /* "auto" (default when NULL), "cpu", ... A name fails loudly; only "auto" falls back. */
  int32_t threads;     /* threads that one step may use; 1 by default */
  const unils_graph_runner* graph_runner; /* for bundles of family "published", and for the backend of its name; or NULL */
  unils_precision precision; /* FP32 by default; another where the backend has it, with frames that differ a little */
} unils_model_options;

typedef struct unils_model_info {
  size_t struct_size;
  const char* family;  /* "stream" or "published"; lives as long as the model, as do the strings below */
  const char* rig;     /* "arkit" or "flame" */
  const char* backend; /* the backend that runs it, "cpu" say */
  const char* backend_detail; /* "avx512", or why "auto" fell back */
  const char* json;    /* the whole model.json, UTF-8 */
  int32_t channels;    /* D: numbers per frame */
  int32_t sample_rate; /* 16000 */
  int32_t hop_samples; /* 640 */
  int32_t frame_rate;  /* 25 */
  int32_t look_ahead_self_max, look_ahead_other_max; /* frames */
  float default_temperature, default_top_p, default_cfg_scale;
  int32_t default_look_ahead_self, default_look_ahead_other;
  int64_t parameters;
  int64_t weight_bytes; /* what one step reads; family "published": the size of its graphs */
  int32_t window_frames; /* of the model's own windows, which are made at a time unless the mode is ROLLING: 1 or 100 */
} unils_model_info;

/* How family "published" cuts time. Family "stream" makes every frame as its hop arrives, and is WINDOWED.
 * WINDOWED: the model's own windows, of window_frames new frames each.
 * ROLLING : hop_frames new frames at a time, in windows that begin with frames that were shown before. A step costs
 *           what a window costs. */
typedef enum unils_mode { UNILS_MODE_WINDOWED = 0, UNILS_MODE_ROLLING = 1 } unils_mode;

typedef struct unils_session_options {
  size_t struct_size;
  unils_clock clock;
  int32_t look_ahead_self;  /* frames, 0..look_ahead_self_max; "published" WINDOWED: 0 */
  int32_t look_ahead_other; /* frames, 0..look_ahead_other_max; as above */
  float temperature;        /* >= 0; 0 is greedy */
  float top_p;              /* (0, 1] */
  float cfg_scale;          /* >= 0; 1 switches guidance off */
  uint64_t seed;
  const float* style;       /* motion (style_frames, D), copied; NULL for none */
  int64_t style_frames;
  int32_t smoothing; /* 0 or 1: each frame is its value on the least-squares cubic of the 9 frames around it */
  unils_mode mode;
  int32_t hop_frames;       /* ROLLING: 1..window_frames less the longer look-ahead; 5 by default */
  /* 1, or 2 in family "published": the face of `self`, then that of `other`, who hears the tracks the other way round
   * and has the seed that is one higher. */
  int32_t faces;
  const float* style_other; /* of the second face, (style_frames, D), copied; NULL for none */
} unils_session_options;

/* Where pull writes. values is required; the others may be NULL. */
typedef struct unils_frames {
  float* values;       /* (capacity, faces, D) */
  int64_t* index;      /* (capacity): frame t covers samples [640 t, 640 (t+1)) at 16 kHz */
  double* pts_seconds; /* (capacity): t / 25 */
  int64_t* generation; /* (capacity) */
} unils_frames;

/* All in milliseconds and algorithmic: what must arrive before a frame can be made, compute time not counted. */
typedef struct unils_latency {
  size_t struct_size;
  double hop_ms;              /* 40: a frame needs the whole hop it covers */
  double look_ahead_self_ms, look_ahead_other_ms;
  double resampler_self_ms, resampler_other_ms; /* <= 2.6; 0 until the first push fixes the rate, and at 16 kHz */
  /* Frames are made this much audio at a time, and the first of a block waits for its last hop: hop_ms in family
   * "stream"; in "published" 4000 WINDOWED, hop_ms x hop_frames ROLLING. */
  double block_ms;
  /* 160 with smoothing, else 0: frame t leaves when frame t + 4 is made. The first four wait for frame 8, the last four
   * for finish; fewer than 9 frames in all leave as they are, at finish. */
  double smoothing_ms;
  /* From the first sample of a hop to its frame, when audio comes live: block + smoothing + look-ahead + resampler of
   * the track that the clock waits for; under BOTH, of the later of the two. (Own audio pushed look_ahead_self ahead of
   * its time, as text-to-speech is, adds nothing: then look-ahead and resampler are those of the other track.) */
  double total_ms;
} unils_latency;

typedef struct unils_stats {
  size_t struct_size;
  int64_t frames; /* made since creation or reset; smoothing holds the last of them until finish */
  /* Compute per frame, features included, over the last 4096; a block's is shared out among its frames. */
  double step_p50_us, step_p95_us, step_p99_us;
  int64_t samples_self, samples_other;          /* taken since creation or reset, at 16 kHz */
  int64_t skew_samples;        /* end of own audio minus end of the other's on the time line, at 16 kHz; 0 under SELF */
  int64_t refused_samples;     /* offered but not taken because a ring was full, at the caller's rate */
  int64_t silent_own_frames;   /* clock OTHER: frames made with own audio missing, in whole or in part */
  size_t session_bytes;        /* everything this session holds */
} unils_stats;

UNILS_API uint32_t unils_abi_version(void);
UNILS_API const char* unils_version(void);          /* "0.1.0"; static */
UNILS_API const char* unils_status_name(unils_status status); /* static */
UNILS_API const char* unils_last_error(void);       /* until this thread's next unils call */

/* Backends known to this library, best first. score 0: cannot run here, and detail says why. */
typedef struct unils_backend_info {
  size_t struct_size;
  const char* name;   /* static */
  const char* detail; /* static */
  int32_t score;
  const char* plugin; /* static; path of the plug-in it was found in, NULL when it is linked in or was not found */
} unils_backend_info;
UNILS_API int32_t unils_backend_count(void);
UNILS_API unils_status unils_backend_get(int32_t index, unils_backend_info* info);
/* One more folder (copied) to look for plug-ins in, after that of this library. Plug-ins are looked for once, when a
 * backend is first asked about: UNILS_ERROR_STATE from then on. */
UNILS_API unils_status unils_plugin_folder(const char* folder);

/* bundle: a folder with model.json, weights.safetensors and, in family "published", graphs. options may be NULL. */
UNILS_API unils_status unils_model_load(const char* bundle, const unils_model_options* options, unils_model** model);
UNILS_API void unils_model_free(unils_model* model); /* NULL is fine; sessions made from it go on */
UNILS_API unils_status unils_model_get_info(const unils_model* model, unils_model_info* info);
UNILS_API const char* unils_model_channel_name(const unils_model* model, int32_t channel); /* NULL when out of range */

/* float32 values in the memory of a device, for renderers that live there. Types and numbers of devices are DLPack's. */
typedef struct unils_device_array {
  size_t struct_size;
  void* data;
  int32_t device_type; /* 2: CUDA */
  int32_t device_id;
} unils_device_array;
/* A copy of `count` values on the device that the model computes on, complete when it returns; free it while the model
 * lives. UNILS_ERROR_BACKEND where the model computes on the host. */
UNILS_API unils_status unils_model_device_put(const unils_model* model, const float* values, int64_t count,
                                              unils_device_array* array);
UNILS_API void unils_model_device_free(const unils_model* model, void* data); /* NULL is fine */

UNILS_API unils_status unils_session_options_init(const unils_model* model, unils_session_options* options);
UNILS_API unils_status unils_session_create(const unils_model* model, const unils_session_options* options,
                                            unils_session** session);
UNILS_API void unils_session_free(unils_session* session);

/* Mono. Never waits, allocates (but for the sentence of a failure) or makes a frame. *taken <= count is what fitted;
 * offer the rest again after a pull. The first samples on a track fix its sample_rate (8000..96000 Hz, any integer)
 * until reset. Float samples beyond [-1, 1] are clipped; samples need no alignment. Audio is resampled to 16 kHz in its
 * place: time stamps do not move, the audio only waits up to resampler_*_ms longer. */
UNILS_API unils_status unils_session_push_audio(unils_session* session, unils_track track, const void* samples,
                                                unils_sample_format format, int64_t count, int32_t sample_rate,
                                                int64_t* taken);
/* Makes every frame that can be made, up to capacity, and never waits for audio. *count may be 0. When a frame fails
 * after others were made, those are returned with UNILS_OK and the next pull returns the failure. Frames of one pull are
 * of one generation: after an interrupt, frames that were made before it come alone. */
UNILS_API unils_status unils_session_pull_frames(unils_session* session, const unils_frames* frames, int64_t capacity,
                                                 int64_t* count);
/* Frames that pulls could hand over now. */
UNILS_API unils_status unils_session_frames_ready(const unils_session* session, int64_t* count);
/* Barge-in: own audio from the next frame to be made on is forgotten, also what look-ahead had already heard; the other
 * track and the face go on. Raises the generation of the frames made from now on (*generation, may be NULL); those that
 * are made but not pulled yet, of a block or held by smoothing, keep the one before. Own audio pushed next starts at the
 * next frame to be made; under BOTH and SELF go on pushing it (or silence), or no frame can be made. */
UNILS_API unils_status unils_session_interrupt(unils_session* session, int64_t* generation);
/* No more audio: what is missing of the last hop, of look-ahead and of the shorter track is silence, and the longer
 * track decides how many frames there are. Pushing is UNILS_ERROR_STATE from now on; pull until *count is 0. */
UNILS_API unils_status unils_session_finish(unils_session* session);
/* As newly made with the same options; the tracks' rates are free again. */
UNILS_API unils_status unils_session_reset(unils_session* session);

/* A snapshot is plain bytes, valid for any session of the same model and options (style included) on this kind of
 * machine and version of the library; a session restored from it goes on bit by bit. One that is cut, damaged or of
 * another model or options is UNILS_ERROR_INVALID_ARGUMENT and changes nothing; one forged so that it contradicts
 * itself leaves the session as after a reset. Numbers are checked, but a snapshot is not signed: do not restore what a
 * stranger made. */
UNILS_API size_t unils_session_snapshot_bytes(const unils_session* session);
UNILS_API unils_status unils_session_snapshot(unils_session* session, void* buffer, size_t bytes);
UNILS_API unils_status unils_session_restore(unils_session* session, const void* buffer, size_t bytes);

UNILS_API unils_status unils_session_get_latency(const unils_session* session, unils_latency* latency);
UNILS_API unils_status unils_session_get_stats(const unils_session* session, unils_stats* stats);

/* Many sessions of family "stream" whose frames are made together: each reading of the weights serves many of them, and
 * unils_model_options.threads threads share them. A session's frames are those that it would make alone: bit for bit on
 * `cpu`, within rounding on others. */
typedef struct unils_pool_options {
  size_t struct_size;
  int32_t max_sessions; /* 1..16384; memory for all of them is taken when the pool is made, and none later */
} unils_pool_options;
typedef struct unils_pool_frames {
  unils_frames frames;
  int64_t* session; /* (capacity): whose frame it is, the id that unils_pool_session gave; required */
} unils_pool_frames;
typedef struct unils_pool_stats {
  size_t struct_size;
  int32_t max_sessions, sessions; /* places, and how many are taken */
  size_t bytes;                   /* everything the pool holds */
} unils_pool_stats;
UNILS_API unils_status unils_pool_create(const unils_model* model, const unils_pool_options* options, unils_pool** pool);
/* Its sessions go with it; nobody may be inside the pool or one of them. NULL is fine. */
UNILS_API void unils_pool_free(unils_pool* pool);
/* A session like any other, but for these: its frames come from unils_pool_pull, and unils_session_pull_frames is
 * UNILS_ERROR_STATE; unils_session_free gives its place back, also beside a pull. options may be NULL. *id is unlike that
 * of any other session of the pool. UNILS_ERROR_FULL when every place is taken. Allocates nothing. */
UNILS_API unils_status unils_pool_session(unils_pool* pool, const unils_session_options* options,
                                          unils_session** session, int64_t* id);
/* A push of one track for each of `count` of its sessions, shared among the model's threads: samples (count, each), taken
 * (count), both required. Where one fails the others are made all the same; the status is that of the first that failed,
 * and *failed (may be NULL) its index, or -1. */
UNILS_API unils_status unils_pool_push_audio(unils_pool* pool, unils_session* const* sessions, int32_t count,
                                             unils_track track, const void* samples, unils_sample_format format,
                                             int64_t each, int32_t sample_rate, int64_t* taken, int32_t* failed);
/* Makes frames in rounds, in each of which every session that can make a frame makes one, until none can or `capacity`
 * frames are out; the next pull begins with the session whose turn it is. Sessions without a whole hop cost nothing. The
 * frames of one session are in their order and, in one pull, of one generation. A session that fails is left out of the
 * rest of the pull, and its failure is what the next pull returns, or this one when it has no frame. */
UNILS_API unils_status unils_pool_pull(unils_pool* pool, const unils_pool_frames* frames, int64_t capacity,
                                       int64_t* count);
UNILS_API unils_status unils_pool_frames_ready(unils_pool* pool, int64_t* count); /* that pulls could hand over now */
UNILS_API unils_status unils_pool_get_stats(const unils_pool* pool, unils_pool_stats* stats);

#ifdef __cplusplus
}
#endif
#endif
