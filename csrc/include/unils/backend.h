/* backend.h - what a backend provides: the arithmetic of the `stream` model, as a table of functions.
 *
 * A backend owns its copy of the weights and nothing else. What changes between frames lives in flat state blocks,
 * owned by the caller and laid out by the engine (csrc/engine/state_layout.h), the same on every backend, so that a
 * snapshot is a copy. Scratch memory (workspace) holds nothing between calls. No call but model_create allocates; none
 * throws.
 *
 * The engine checks arguments and counts frames and rows; a backend may trust what it is given.
 */
#ifndef UNILS_BACKEND_H
#define UNILS_BACKEND_H

#include "unils/unils.h"

#ifdef __cplusplus
extern "C" {
#endif

#define UNILS_BACKEND_VERSION 2

/* Frames of a style clip: 1 to 20 seconds. */
#define UNILS_STYLE_MIN_FRAMES 25
#define UNILS_STYLE_MAX_FRAMES 500

/* Sizes of a `stream` model, as docs/stream-model.md names them. */
typedef struct unils_stream_sizes {
  int32_t channels;   /* D */
  int32_t row_values; /* log-mel values a row: steps per hop x mels, time-major */
  int32_t mels;
  int32_t audio_width /* A */, audio_depth, audio_kernel, audio_expansion;
  int32_t codec_width /* H */, codec_depth, codec_kernel, codec_expansion;
  int32_t bits /* d, a level */, levels /* L */;
  int32_t width /* W */, depth, heads, feed_forward, head_width /* F, of the depth head */;
  int32_t window_frames, audio_window_frames, style_tokens /* S */;
  int32_t look_ahead_self_max, look_ahead_other_max;
} unils_stream_sizes;

typedef struct unils_tensor {
  const char* name;    /* as in the bundle */
  const float* values; /* row-major, borrowed for the duration of model_create */
  int64_t shape[2];    /* shape[1] is 1 for a vector */
} unils_tensor;

typedef struct unils_model_spec {
  const unils_stream_sizes* sizes;
  const float* gains;          /* (levels) */
  const unils_tensor* tensors; /* every tensor of the model, sorted by name, each of the right shape and finite */
  int32_t tensor_count;
  int32_t threads; /* upper bound for one call of many requests; a backend may use fewer */
} unils_model_spec;

typedef struct unils_backend_model unils_backend_model; /* opaque */

/* A log-mel row (row_values) to be appended as row `row` of a track. */
typedef struct unils_row_request {
  void* state;
  unils_track track;
  int64_t row;
  const float* log_mel;
} unils_row_request;

/* Frame `frame` to be made. */
typedef struct unils_step_request {
  void* state;
  int64_t frame;
  int32_t look_ahead_self, look_ahead_other;
  float temperature, top_p, cfg_scale;
  uint64_t seed;
  float* motion; /* (D), out */
  float* logits; /* (levels * bits), out: guided logits; may be NULL */
} unils_step_request;

typedef struct unils_backend {
  uint32_t version; /* UNILS_BACKEND_VERSION */
  const char* name;
  /* 0: cannot run here, and `detail` says why; otherwise higher is better and `detail` says what it would use. */
  int32_t (*score)(unils_sentence* detail);
  unils_status (*model_create)(const unils_model_spec* spec, unils_backend_model** model, unils_sentence* why);
  void (*model_free)(unils_backend_model* model);
  /* Of calls for at most `sessions` sessions: a step of each, or a row of each of their tracks. set_style needs that of
   * one session. */
  size_t (*workspace_bytes)(const unils_backend_model* model, int32_t sessions);
  int64_t (*weight_bytes)(const unils_backend_model* model); /* what one step and its two rows read, each weight once */
  /* Writes the no-style prefix into a zeroed state. */
  void (*reset)(const unils_backend_model* model, void* state);
  /* motion: (frames, D), finite; UNILS_STYLE_MIN_FRAMES <= frames <= UNILS_STYLE_MAX_FRAMES. */
  unils_status (*set_style)(const unils_backend_model* model, void* state, void* workspace, const float* motion,
                            int64_t frames, unils_sentence* why);
  /* `count` requests, no two of which may be of the same state and track. The result of each is the same, bit for bit,
   * whichever others are made with it. */
  unils_status (*push_rows)(const unils_backend_model* model, const unils_row_request* requests, int32_t count,
                            void* workspace, unils_sentence* why);
  /* `count` requests, each of a state of its own, any subset of the sessions of a model; the same promise. */
  unils_status (*step)(const unils_backend_model* model, const unils_step_request* requests, int32_t count,
                       void* workspace, unils_sentence* why);
} unils_backend;

/* The registry (csrc/backends/registry.cpp) answers these. `name`: NULL and "auto" mean the best that runs here; any
 * other name that is unknown or cannot run is UNILS_ERROR_BACKEND. `detail`: what it uses. */
unils_status unils_backend_resolve(const char* name, const unils_backend** backend, unils_sentence* detail);

#ifdef __cplusplus
}
#endif
#endif
