/* backend.h - what a backend provides: the arithmetic of the `stream` model, as a table of functions.
 *
 * A backend owns its copy of the weights, and the memory that steps work in. What changes between frames lies in flat
 * state blocks, laid out by csrc/engine/state_layout.h alike on every backend, in memory of the backend's choice (a
 * card's, say): the caller holds an address that only the backend may follow, and state_read and state_write carry a
 * block to the host and back, so that a session can go on from a snapshot on another backend. A workspace holds nothing
 * between calls. Nothing but the functions named *_create allocates; none throws.
 *
 * The engine checks arguments and counts frames and rows; a backend may trust what it is given. Calls of one workspace
 * or one state come one at a time; of different ones, from any threads.
 */
#ifndef UNILS_BACKEND_H
#define UNILS_BACKEND_H

#include "unils/unils.h"

#ifdef __cplusplus
extern "C" {
#endif

#define UNILS_BACKEND_VERSION 2

/* How audio becomes log-mel rows, as docs/stream-model.md says. */
typedef struct unils_features {
  int32_t sample_rate, hop_samples, window_samples, step_samples, fft_size, mels;
  double low_hz, high_hz, floor;
} unils_features;

/* Hops of a track whose last window_samples - step_samples samples a state keeps, for rows that are made again. */
#define UNILS_KEPT_HOPS 32

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
  const unils_features* features;
  const float* gains;          /* (levels) */
  const unils_tensor* tensors; /* every tensor of the model, sorted by name, each of the right shape and finite */
  int32_t tensor_count;
  int32_t threads;           /* upper bound for one call of many requests; a backend may use fewer */
  unils_precision precision; /* of matrix products; sums are float32. One that a backend lacks is an error of it. */
  /* The model as ONNX graphs, and who runs them; NULL and 0 where the bundle holds none, or the host has no runner. */
  const unils_graph_runner* runner;
  const unils_graph* graphs;
  int32_t graph_count;
} unils_model_spec;

typedef struct unils_backend_model unils_backend_model;         /* opaque */
typedef struct unils_backend_workspace unils_backend_workspace; /* opaque */

/* A row to be appended as row `row` of a track: a log-mel row, or the hop of audio that the backend makes one of. Rows
 * come in order, or again after a rewind of less than UNILS_KEPT_HOPS. */
typedef struct unils_row_request {
  void* state;
  unils_track track;
  int64_t row;
  const float* log_mel; /* (row_values), or NULL */
  const float* hop;     /* (hop_samples) in [-1, 1], or NULL; only where `hears_hops` */
} unils_row_request;

/* Frame `frame` to be made. */
typedef struct unils_step_request {
  void* state;
  int64_t frame;
  int32_t look_ahead_self, look_ahead_other;
  float temperature, top_p, cfg_scale;
  uint64_t seed;
  float* motion; /* (D), out, on the host */
  float* logits; /* (levels * bits), out, on the host: guided logits; may be NULL */
} unils_step_request;

typedef struct unils_backend {
  uint32_t version; /* UNILS_BACKEND_VERSION */
  const char* name;
  int32_t hears_hops; /* 1: makes log-mel rows itself */
  /* 0: cannot run here, and `detail` says why; otherwise higher is better and `detail` says what it would use. */
  int32_t (*score)(unils_sentence* detail);
  /* `why` on success: what it uses, where that is known only now; else empty. */
  unils_status (*model_create)(const unils_model_spec* spec, unils_backend_model** model, unils_sentence* why);
  void (*model_free)(unils_backend_model* model);
  int64_t (*weight_bytes)(const unils_backend_model* model); /* what one step and its two rows read, each weight once */

  /* `count` state blocks, one after the other, each as long as the layout says and zeroed. */
  unils_status (*states_create)(const unils_backend_model* model, int32_t count, void** states, unils_sentence* why);
  void (*states_free)(const unils_backend_model* model, void* states);
  /* A whole block to the host, and from it. */
  unils_status (*state_read)(const unils_backend_model* model, const void* state, void* block, unils_sentence* why);
  unils_status (*state_write)(const unils_backend_model* model, void* state, const void* block, unils_sentence* why);

  /* For calls with a step of at most `sessions` states, and a row of each of their tracks. */
  unils_status (*workspace_create)(const unils_backend_model* model, int32_t sessions,
                                   unils_backend_workspace** workspace, unils_sentence* why);
  void (*workspace_free)(unils_backend_workspace* workspace);
  int64_t (*workspace_bytes)(const unils_backend_workspace* workspace); /* on the host and elsewhere */

  /* As newly made: zeroes the state and writes the no-style prefix. */
  unils_status (*reset)(const unils_backend_model* model, void* state, unils_sentence* why);
  /* motion: (frames, D), finite; UNILS_STYLE_MIN_FRAMES <= frames <= UNILS_STYLE_MAX_FRAMES. */
  unils_status (*set_style)(const unils_backend_model* model, void* state, unils_backend_workspace* workspace,
                            const float* motion, int64_t frames, unils_sentence* why);
  /* First all rows, then all steps: row_count rows, no two of the same state and track, and step_count steps, no two of
   * the same state; either may be 0. Any subset of the states of a model. What each request makes does not depend on
   * which others are made with it: bit for bit on `cpu`. Returns when every `motion` is written. */
  unils_status (*run)(const unils_backend_model* model, unils_backend_workspace* workspace,
                      const unils_row_request* rows, int32_t row_count, const unils_step_request* steps,
                      int32_t step_count, unils_sentence* why);

  /* For renderers on the device: a copy of `count` values there, ready when it returns, and the end of one. NULL where
   * frames are made on the host. */
  unils_status (*device_put)(const unils_backend_model* model, const float* values, int64_t count,
                             unils_device_array* array, unils_sentence* why);
  void (*device_free)(const unils_backend_model* model, void* data);
} unils_backend;

/* The registry (csrc/backends/registry.cpp) answers these. `name`: NULL and "auto" mean the best that runs here; any
 * other name that is unknown or cannot run is UNILS_ERROR_BACKEND. `detail`: what it uses. */
unils_status unils_backend_resolve(const char* name, const unils_backend** backend, unils_sentence* detail);

/* What a plug-in exports, under this name: its table, for a library that asks for UNILS_BACKEND_VERSION `version`; NULL
 * when it is of another version. */
typedef const unils_backend* (*unils_backend_entry)(uint32_t version);
#define UNILS_BACKEND_ENTRY "unils_backend_plugin"

#ifdef __cplusplus
}
#endif
#endif
