// Workspace: the memory, the stream and the graphs of calls of up to so many sessions.
//
// A call is copied to the device as one block of pinned memory, laid out for the smallest bucket that holds it (1, 2, 4,
// ... sessions), runs that bucket's graphs, of rows and of steps, and comes back as one copy of the frames. The graphs
// are captured once: what a call holds is read from its block when they run.
#pragma once
#include <memory>
#include <vector>

#include "backends/cuda/cuda_model.h"

namespace unils::cuda {

class Workspace {
 public:
  // The model must outlive it. Throws std::bad_alloc.
  static Status create(const CudaModel& model, int32_t sessions, std::unique_ptr<Workspace>* workspace);

  int64_t bytes() const { return static_cast<int64_t>(device_bytes_ + pinned_bytes_); }

  Status run(const unils_row_request* rows, int32_t row_count, const unils_step_request* steps, int32_t step_count);
  Status set_style(void* state, const float* motion, int64_t frames);
  Status write_null_style(void* state);

 private:
  // What a call tells the device, where it lies in the block of a bucket: pinned, or on the device.
  struct Call {
    RowRange *row_tracks[2], *rows, *steps, *step_rows;  // rows of a track, all, steps, and rows of those
    Place* row_places;
    int32_t *tracks, *is_log_mel;
    Place* step_places;
    Sampling* sampling;
    int32_t *look_ahead[2], *step_of;
    float* sounds;  // (rows, sound_floats_), at the end: only what is used is copied
  };
  struct Bucket {
    int32_t sessions;
    Call host, device;
    GraphExec rows, steps;
  };
  // Memory of the device that a call works in; rows, steps and styles each use it from its start.
  struct Work {
    float *normal, *audio_x, *audio_h, *audio_wide, *keys_values;
    float *x, *qkv, *attended, *wide, *hidden, *cosines, *sines;
    float *latent, *codec_x, *codec_h, *codec_wide;
    float *motion, *logits;
    float *style_motion, *style_x, *style_h, *style_wide, *style_z, *style_pooled, *style_hidden, *style_tokens,
        *style_qkv;
    RowRange *style_frames, *style_rows;
    size_t bytes;
  };

  explicit Workspace(const CudaModel& model, int32_t sessions);
  Status init();
  Work lay_out_work(char* base) const;
  Call lay_out_call(char* base, int32_t sessions, size_t* bytes) const;
  Status capture(Bucket* bucket, bool of_rows, GraphExec* executable);
  Bucket& bucket_for(int32_t row_count, int32_t step_count);  // the smallest
  void fill_rows(const Call& call, const unils_row_request* rows, int32_t count) const;
  void fill_steps(const Call& call, const unils_step_request* steps, int32_t count) const;
  Status enqueue_call(Bucket& bucket, int32_t row_count, int32_t step_count, bool logits);

  void enqueue_rows(const Bucket& bucket) const;
  void enqueue_steps(const Bucket& bucket) const;
  void enqueue_layer(const Bucket& bucket, int layer) const;
  Status write_style_of(void* state, const float* motion, int frames);
  void enqueue_style_encoder(int frames) const;
  void enqueue_style_tokens(const float* tokens, float* state) const;
  // One of the trunks: input -> x, whose LayerNorm is left to whoever reads it.
  struct StackRun {
    const RowRange* rows;
    int max_rows;
    const Place* places;
    const int32_t* tracks;
    RowRingAt rings[2];
    float *x, *h, *wide;
  };
  void enqueue_stack(const Stack& stack, const StackRun& run, const float* input, int input_floats) const;
  LinearCall linear_call(const Linear& linear, const RowRange* rows, int max_rows, const float* x, float* y) const;

  const CudaModel& model_;
  int32_t sessions_;
  bool graphs_ = true;
  int32_t sound_floats_ = 0;
  size_t call_bytes_ = 0, device_bytes_ = 0, pinned_bytes_ = 0;
  Stream stream_;
  DeviceMemory device_;  // the call's copy, then work
  PinnedMemory pinned_;  // the call, or a clip; then motion and logits
  Work work_ = {};
  char *device_call_ = nullptr, *host_call_ = nullptr;
  float *host_motion_ = nullptr, *host_logits_ = nullptr;
  std::vector<Bucket> buckets_;
};

}  // namespace unils::cuda
