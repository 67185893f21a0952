#include "backends/cuda/workspace.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "core/arena.h"

namespace unils::cuda {
namespace {

// Hands out parts of a block at `base`, each on lines of its own. A null base only adds up.
class Parts {
 public:
  explicit Parts(void* base) : base_(reinterpret_cast<uintptr_t>(base)) {}
  template <typename T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(base_ + layout_.add<T>(static_cast<size_t>(count)));
  }
  size_t bytes() const { return layout_.bytes(); }

 private:
  uintptr_t base_;
  ArenaLayout layout_;
};

}  // namespace

Workspace::Workspace(const CudaModel& model, int32_t sessions) : model_(model), sessions_(sessions) {
  const char* graphs = std::getenv("UNILS_CUDA_GRAPHS");
  graphs_ = graphs == nullptr || std::strcmp(graphs, "0") != 0;
  sound_floats_ = std::max(model.features.hop_samples, model.sizes.row_values);
}

Workspace::Call Workspace::lay_out_call(char* base, int32_t sessions, size_t* bytes) const {
  Call call = {};
  Parts parts(base);
  RowRange* ranges = parts.take<RowRange>(5);
  call.row_tracks[0] = ranges, call.row_tracks[1] = ranges + 1;
  call.rows = ranges + 2, call.steps = ranges + 3, call.step_rows = ranges + 4;
  const int64_t n = sessions;
  call.row_places = parts.take<Place>(2 * n);
  call.tracks = parts.take<int32_t>(2 * n);
  call.is_log_mel = parts.take<int32_t>(2 * n);
  call.step_places = parts.take<Place>(n);
  call.sampling = parts.take<Sampling>(n);
  for (int32_t*& look_ahead : call.look_ahead) look_ahead = parts.take<int32_t>(n);
  call.step_of = parts.take<int32_t>(2 * n);
  call.sounds = parts.take<float>(2 * n * sound_floats_);
  *bytes = parts.bytes();
  return call;
}

Workspace::Work Workspace::lay_out_work(char* base) const {
  const unils_stream_sizes& s = model_.sizes;
  const int64_t n = sessions_, rows = 2 * n;
  Work work = {};
  Parts audio(base), step(base), style(base);
  work.normal = audio.take<float>(rows * s.row_values);
  work.audio_x = audio.take<float>(rows * s.audio_width);
  work.audio_h = audio.take<float>(rows * s.audio_width);
  work.audio_wide = audio.take<float>(rows * s.audio_width * s.audio_expansion);
  work.keys_values = audio.take<float>(rows * 2 * s.depth * s.width);

  work.motion = step.take<float>(n * s.channels);
  work.logits = step.take<float>(n * model_.all_bits());
  work.x = step.take<float>(rows * s.width);
  work.qkv = step.take<float>(rows * 3 * s.width);
  work.attended = step.take<float>(rows * s.width);
  work.wide = step.take<float>(rows * s.feed_forward);
  work.hidden = step.take<float>(rows * s.levels * s.head_width);
  work.cosines = step.take<float>(n * model_.head_width() / 2);
  work.sines = step.take<float>(n * model_.head_width() / 2);
  work.latent = step.take<float>(n * s.bits);
  work.codec_x = step.take<float>(n * s.codec_width);
  work.codec_h = step.take<float>(n * s.codec_width);
  work.codec_wide = step.take<float>(n * s.codec_width * s.codec_expansion);

  const int64_t frames = UNILS_STYLE_MAX_FRAMES, tokens = s.style_tokens;
  work.style_frames = style.take<RowRange>(2);
  work.style_rows = work.style_frames + 1;
  work.style_motion = style.take<float>(frames * s.channels);
  work.style_x = style.take<float>(frames * s.codec_width);
  work.style_h = style.take<float>(frames * s.codec_width);
  work.style_wide = style.take<float>(frames * s.codec_width * s.codec_expansion);
  work.style_z = style.take<float>(frames * s.bits);
  work.style_pooled = style.take<float>(tokens * s.bits);
  work.style_hidden = style.take<float>(tokens * s.width);
  work.style_tokens = style.take<float>(tokens * s.width);
  work.style_qkv = style.take<float>(tokens * 3 * s.width);
  work.bytes = std::max({audio.bytes(), step.bytes(), style.bytes()});
  return work;
}

Status Workspace::create(const CudaModel& model, int32_t sessions, std::unique_ptr<Workspace>* workspace) {
  std::unique_ptr<Workspace> made(new Workspace(model, sessions));
  UNILS_RETURN_IF_ERROR(made->init());
  *workspace = std::move(made);
  return Status();
}

Status Workspace::init() {
  const unils_stream_sizes& s = model_.sizes;
  static_cast<void>(lay_out_call(nullptr, sessions_, &call_bytes_));
  // A clip is told in the same memory as a call.
  constexpr int kFrames = UNILS_STYLE_MAX_FRAMES;
  const auto n = static_cast<size_t>(sessions_), clip = static_cast<size_t>(kFrames * s.channels) * sizeof(float);
  const size_t told_bytes = round_up(std::max(call_bytes_, kCacheLine + clip), kCacheLine);
  const size_t motion_bytes = round_up(n * static_cast<size_t>(s.channels) * sizeof(float), kCacheLine);
  call_bytes_ = round_up(call_bytes_, 256);  // what follows is aligned as what cudaMalloc gives
  device_bytes_ = call_bytes_ + lay_out_work(nullptr).bytes;
  pinned_bytes_ = told_bytes + motion_bytes + n * static_cast<size_t>(model_.all_bits()) * sizeof(float);
  UNILS_CUDA_RETURN_IF_ERROR(cudaMalloc(device_.out(), device_bytes_), "for a batch of that many sessions");
  UNILS_CUDA_RETURN_IF_ERROR(cudaHostAlloc(pinned_.out(), pinned_bytes_, cudaHostAllocDefault),
                             "for a batch of that many sessions");
  device_call_ = static_cast<char*>(device_.get());
  host_call_ = static_cast<char*>(pinned_.get());
  host_motion_ = reinterpret_cast<float*>(host_call_ + told_bytes);
  host_logits_ = reinterpret_cast<float*>(host_call_ + told_bytes + motion_bytes);
  work_ = lay_out_work(device_call_ + call_bytes_);
  UNILS_CUDA_RETURN_IF_ERROR(cudaStreamCreateWithFlags(stream_.out(), cudaStreamNonBlocking), "to make a stream");

  for (int32_t sessions = 1; buckets_.empty() || buckets_.back().sessions < sessions_; sessions *= 2) {
    Bucket bucket = {};
    size_t bytes = 0;
    bucket.sessions = std::min(sessions, sessions_);
    bucket.host = lay_out_call(host_call_, bucket.sessions, &bytes);
    bucket.device = lay_out_call(device_call_, bucket.sessions, &bytes);
    buckets_.push_back(std::move(bucket));
  }
  // Once with nothing in it: what is wrong with the device or the plug-in shows here, and kernels are loaded before
  // they are captured.
  UNILS_CUDA_RETURN_IF_ERROR(cudaMemsetAsync(device_call_, 0, call_bytes_, stream_.get()), "to make a batch");
  for (Bucket& bucket : buckets_) {
    enqueue_rows(bucket);
    enqueue_steps(bucket);
    UNILS_CUDA_RETURN_IF_ERROR(cudaGetLastError(), "to start its kernels");
    UNILS_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream_.get()), "to run its kernels");
    if (!graphs_) continue;
    UNILS_RETURN_IF_ERROR(capture(&bucket, true, &bucket.rows));
    UNILS_RETURN_IF_ERROR(capture(&bucket, false, &bucket.steps));
  }
  return Status();
}

Status Workspace::capture(Bucket* bucket, bool of_rows, GraphExec* executable) {
  Graph graph;
  UNILS_CUDA_RETURN_IF_ERROR(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal),
                             "to capture a graph");
  of_rows ? enqueue_rows(*bucket) : enqueue_steps(*bucket);
  const cudaError_t enqueued = cudaGetLastError();
  const cudaError_t ended = cudaStreamEndCapture(stream_.get(), graph.out());
  UNILS_CUDA_RETURN_IF_ERROR(enqueued, "to capture a graph");
  UNILS_CUDA_RETURN_IF_ERROR(ended, "to capture a graph");
  return status_of(cudaGraphInstantiate(executable->out(), graph.get(), 0), "to make a graph");
}

Workspace::Bucket& Workspace::bucket_for(int32_t row_count, int32_t step_count) {
  const int32_t sessions = std::max((row_count + 1) / 2, step_count);
  return *std::find_if(buckets_.begin(), buckets_.end() - 1,
                       [sessions](const Bucket& bucket) { return bucket.sessions >= sessions; });
}

// Rows of one track lie together: each track has keys and values of its own.
void Workspace::fill_rows(const Call& call, const unils_row_request* rows, int32_t count) const {
  int32_t at = 0;
  for (int track = 0; track < 2; ++track) {
    call.row_tracks[track]->first = at;
    for (int32_t i = 0; i < count; ++i) {
      const unils_row_request& row = rows[i];
      if (row.track != track) continue;
      call.row_places[at] = {static_cast<float*>(row.state), row.row};
      call.tracks[at] = track;
      call.is_log_mel[at] = row.log_mel != nullptr ? 1 : 0;
      const float* sound = row.log_mel != nullptr ? row.log_mel : row.hop;
      const int floats = row.log_mel != nullptr ? model_.sizes.row_values : model_.features.hop_samples;
      std::copy(sound, sound + floats, call.sounds + int64_t{at} * sound_floats_);
      ++at;
    }
    call.row_tracks[track]->count = at - call.row_tracks[track]->first;
  }
  *call.rows = {0, count};
}

// Rows [0, count) hear; then come those without audio, of the steps with guidance.
void Workspace::fill_steps(const Call& call, const unils_step_request* steps, int32_t count) const {
  int32_t rows = count;
  for (int32_t i = 0; i < count; ++i) {
    const unils_step_request& step = steps[i];
    call.step_places[i] = {static_cast<float*>(step.state), step.frame};
    call.look_ahead[0][i] = step.look_ahead_self;
    call.look_ahead[1][i] = step.look_ahead_other;
    call.step_of[i] = i;
    const bool guided = step.cfg_scale != 1.0f;
    call.sampling[i] = {step.seed, step.temperature, step.top_p, step.cfg_scale, guided ? rows : -1};
    if (guided) call.step_of[rows++] = i;
  }
  *call.steps = {0, count};
  *call.step_rows = {0, rows};
}

Status Workspace::enqueue_call(Bucket& bucket, int32_t row_count, int32_t step_count, bool logits) {
  static_cast<void>(cudaGetLastError());  // of whoever called this thread's CUDA before
  const auto sounds = static_cast<size_t>(row_count) * static_cast<size_t>(sound_floats_) * sizeof(float);
  const auto before_sounds = static_cast<size_t>(reinterpret_cast<char*>(bucket.host.sounds) - host_call_);
  UNILS_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(device_call_, host_call_, before_sounds + sounds, cudaMemcpyHostToDevice,
                                             stream_.get()),
                             "to take a batch");
  if (row_count > 0) {
    if (graphs_) {
      UNILS_CUDA_RETURN_IF_ERROR(cudaGraphLaunch(bucket.rows.get(), stream_.get()), "to take audio");
    } else {
      enqueue_rows(bucket);
    }
  }
  if (step_count > 0) {
    if (graphs_) {
      UNILS_CUDA_RETURN_IF_ERROR(cudaGraphLaunch(bucket.steps.get(), stream_.get()), "to make frames");
    } else {
      enqueue_steps(bucket);
    }
    const auto motion = static_cast<size_t>(step_count) * static_cast<size_t>(model_.sizes.channels);
    const auto all_logits = static_cast<size_t>(step_count) * static_cast<size_t>(model_.all_bits());
    UNILS_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(host_motion_, work_.motion, motion * sizeof(float),
                                               cudaMemcpyDeviceToHost, stream_.get()),
                               "to hand over frames");
    if (logits) {
      UNILS_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(host_logits_, work_.logits, all_logits * sizeof(float),
                                                 cudaMemcpyDeviceToHost, stream_.get()),
                                 "to hand over logits");
    }
  }
  return status_of(cudaGetLastError(), "to make frames");
}

Status Workspace::run(const unils_row_request* rows, int32_t row_count, const unils_step_request* steps,
                      int32_t step_count) {
  if (row_count == 0 && step_count == 0) return Status();
  Bucket& bucket = bucket_for(row_count, step_count);
  fill_rows(bucket.host, rows, row_count);
  fill_steps(bucket.host, steps, step_count);
  const bool logits =
      std::any_of(steps, steps + step_count, [](const unils_step_request& step) { return step.logits != nullptr; });
  const Status enqueued = enqueue_call(bucket, row_count, step_count, logits);
  // Waited for in any case: the next call writes where this one is read from.
  const cudaError_t done = cudaStreamSynchronize(stream_.get());
  UNILS_RETURN_IF_ERROR(enqueued);
  UNILS_CUDA_RETURN_IF_ERROR(done, "to make frames");
  const int channels = model_.sizes.channels, all_bits = model_.all_bits();
  for (int32_t i = 0; i < step_count; ++i) {
    const float* motion = host_motion_ + int64_t{i} * channels;
    std::copy(motion, motion + channels, steps[i].motion);
    if (steps[i].logits == nullptr) continue;
    const float* from = host_logits_ + int64_t{i} * all_bits;
    std::copy(from, from + all_bits, steps[i].logits);
  }
  return Status();
}

LinearCall Workspace::linear_call(const Linear& linear, const RowRange* rows, int max_rows, const float* x,
                                  float* y) const {
  LinearCall call = {};
  call.linear = linear;
  call.rows = rows, call.max_rows = max_rows;
  call.x = x, call.x_stride = linear.in;
  call.y = y, call.y_stride = linear.out;
  return call;
}

void Workspace::enqueue_stack(const Stack& stack, const StackRun& run, const float* input, int input_floats) const {
  const cudaStream_t stream = stream_.get();
  LinearCall to_x = linear_call(stack.input, run.rows, run.max_rows, input, run.x);
  to_x.x_stride = input_floats;
  linear(to_x, stream);
  int i = 0;
  for (const Stack::Block& block : stack.blocks) {
    CausalConvCall conv = {};
    conv.rows = run.rows, conv.max_rows = run.max_rows;
    conv.places = run.places, conv.tracks = run.tracks;
    conv.rings[0] = run.rings[0], conv.rings[1] = run.rings[1];
    conv.block = i++, conv.kernel = stack.kernel, conv.width = stack.width;
    conv.weight = block.conv_weight, conv.bias = block.conv_bias;
    conv.x = run.x, conv.y = run.h;
    causal_conv(conv, stream);
    LinearCall up = linear_call(block.up, run.rows, run.max_rows, run.h, run.wide);
    up.norm = block.norm, up.gelu = true;
    linear(up, stream);
    LinearCall down = linear_call(block.down, run.rows, run.max_rows, run.wide, run.x);
    down.add = true;
    linear(down, stream);
  }
}

void Workspace::enqueue_rows(const Bucket& bucket) const {
  const cudaStream_t stream = stream_.get();
  const Call& call = bucket.device;
  const Weights& weights = model_.weights;
  const int max_rows = 2 * bucket.sessions;

  LogMelCall mel = {};
  mel.tables = weights.log_mel;
  mel.rows = call.rows, mel.max_rows = max_rows;
  mel.places = call.row_places, mel.tracks = call.tracks, mel.is_log_mel = call.is_log_mel;
  mel.sounds = call.sounds, mel.sound_stride = sound_floats_;
  mel.history[0] = model_.history[0], mel.history[1] = model_.history[1];
  mel.kept_hops = UNILS_KEPT_HOPS;
  mel.mel_mean = weights.mel_mean, mel.mel_std = weights.mel_std;
  mel.normal = work_.normal;
  log_mel(mel, stream);

  const StackRun run = {call.rows,     max_rows,      call.row_places,
                        call.tracks,   {model_.audio[0], model_.audio[1]}, work_.audio_x,
                        work_.audio_h, work_.audio_wide};
  enqueue_stack(weights.audio, run, work_.normal, model_.sizes.row_values);
  for (int track = 0; track < 2; ++track) {
    LinearCall to_keys = linear_call(weights.keys_values[track], call.row_tracks[track], max_rows, work_.audio_x,
                                     work_.keys_values);
    to_keys.norm = weights.audio.norm;
    linear(to_keys, stream);
  }
  KvAppendCall append = {};
  append.rows = call.rows, append.max_rows = max_rows;
  append.places = call.row_places, append.tracks = call.tracks;
  append.rings[0] = model_.cross[0], append.rings[1] = model_.cross[1];
  append.depth = model_.sizes.depth;
  append.frequencies = weights.frequencies;
  append.keys_values = work_.keys_values;
  append_keys_values(append, stream);
}

void Workspace::enqueue_layer(const Bucket& bucket, int layer) const {
  const cudaStream_t stream = stream_.get();
  const Call& call = bucket.device;
  const Weights::Block& block = model_.weights.blocks[static_cast<size_t>(layer)];
  const int W = model_.sizes.width, max_rows = 2 * bucket.sessions;

  LinearCall qkv = linear_call(block.qkv, call.step_rows, max_rows, work_.x, work_.qkv);
  qkv.norm = block.self_norm;
  linear(qkv, stream);
  AttentionCall attend = {};
  attend.rows = call.step_rows, attend.steps = call.steps, attend.max_rows = max_rows;
  attend.places = call.step_places, attend.step_of = call.step_of;
  attend.rings[0] = model_.self[0], attend.rings[1] = model_.self[1];
  attend.style = model_.style, attend.style_tokens = model_.sizes.style_tokens;
  attend.layer = layer, attend.window = model_.sizes.window_frames;
  attend.cosines = work_.cosines, attend.sines = work_.sines;
  attend.query = work_.qkv, attend.key = work_.qkv + W, attend.value = work_.qkv + 2 * W, attend.query_stride = 3 * W;
  attend.scale = 1.0f / std::sqrt(static_cast<float>(model_.head_width()));
  attend.out = work_.attended;
  attention(attend, stream);
  LinearCall output = linear_call(block.self_output, call.step_rows, max_rows, work_.attended, work_.x);
  output.add = true;
  linear(output, stream);

  // Only the rows with audio hear.
  attend.rows = call.steps, attend.max_rows = bucket.sessions;
  attend.style_tokens = 0, attend.window = model_.sizes.audio_window_frames;
  attend.query_stride = W, attend.key = attend.value = nullptr;
  for (int track = 0; track < 2; ++track) {
    const Weights::Cross& cross = block.cross[track];
    LinearCall query = linear_call(cross.query, call.steps, bucket.sessions, work_.x, work_.qkv);
    query.norm = cross.norm;
    linear(query, stream);
    attend.rings[0] = attend.rings[1] = model_.cross[track];
    attend.look_ahead = call.look_ahead[track];
    attention(attend, stream);
    LinearCall heard = linear_call(cross.output, call.steps, bucket.sessions, work_.attended, work_.x);
    heard.add = true;
    linear(heard, stream);
  }

  LinearCall up = linear_call(block.up, call.step_rows, max_rows, work_.x, work_.wide);
  up.norm = block.feed_forward_norm, up.gelu = true;
  linear(up, stream);
  LinearCall down = linear_call(block.down, call.step_rows, max_rows, work_.wide, work_.x);
  down.add = true;
  linear(down, stream);
}

void Workspace::enqueue_steps(const Bucket& bucket) const {
  const cudaStream_t stream = stream_.get();
  const Call& call = bucket.device;
  const Weights& weights = model_.weights;
  const unils_stream_sizes& s = model_.sizes;

  TokenCall begin = {};
  begin.steps = call.steps, begin.max_steps = bucket.sessions;
  begin.places = call.step_places, begin.sampling = call.sampling;
  begin.bits_offset = model_.bits;
  begin.bits = model_.all_bits(), begin.width = s.width, begin.head_width = model_.head_width();
  begin.weight = weights.token_weight, begin.bias = weights.token_bias, begin.start = weights.start;
  for (int track = 0; track < 2; ++track) {
    begin.look_ahead[track] = call.look_ahead[track];
    begin.look_ahead_embedding[track] = weights.look_ahead[track];
  }
  begin.frequencies = weights.frequencies;
  begin.x = work_.x, begin.cosines = work_.cosines, begin.sines = work_.sines;
  token(begin, stream);
  for (int layer = 0; layer < s.depth; ++layer) enqueue_layer(bucket, layer);

  LinearCall hidden = linear_call(weights.hidden, call.step_rows, 2 * bucket.sessions, work_.x, work_.hidden);
  hidden.norm = weights.norm;
  linear(hidden, stream);
  DepthHeadCall head = {};
  head.steps = call.steps, head.max_steps = bucket.sessions;
  head.places = call.step_places, head.sampling = call.sampling;
  head.bits_offset = model_.bits;
  head.levels = s.levels, head.bits = s.bits, head.head_width = s.head_width;
  head.hidden = work_.hidden;
  head.bits_weight = weights.head_bits, head.output_weight = weights.head_output, head.output_bias = weights.head_bias;
  head.gains = weights.gains;
  head.logits = work_.logits, head.latent = work_.latent;
  depth_head(head, stream);

  const StackRun run = {call.steps, bucket.sessions, call.step_places, nullptr, {model_.decoder, model_.decoder},
                        work_.codec_x, work_.codec_h, work_.codec_wide};
  enqueue_stack(weights.decoder, run, work_.latent, s.bits);
  LinearCall motion = linear_call(weights.decoder_output, call.steps, bucket.sessions, work_.codec_x, work_.motion);
  motion.norm = weights.decoder.norm;
  motion.scale = weights.motion_std, motion.shift = weights.motion_mean;
  linear(motion, stream);
}

void Workspace::enqueue_style_tokens(const float* tokens, float* state) const {
  const cudaStream_t stream = stream_.get();
  StyleWriteCall write = {};
  write.state = state;
  write.ring = model_.style, write.tokens = model_.sizes.style_tokens;
  write.qkv = work_.style_qkv;
  for (int layer = 0; layer < model_.sizes.depth; ++layer) {
    const Weights::Block& block = model_.weights.blocks[static_cast<size_t>(layer)];
    LinearCall qkv = linear_call(block.qkv, work_.style_rows, write.tokens, tokens, work_.style_qkv);
    qkv.norm = block.self_norm;
    linear(qkv, stream);
    write.layer = layer;
    write_style(write, stream);
  }
}

Status Workspace::write_null_style(void* state) { return write_style_of(state, nullptr, 0); }

Status Workspace::set_style(void* state, const float* motion, int64_t frames) {
  return write_style_of(state, motion, static_cast<int>(frames));
}

// motion: NULL for no style.
Status Workspace::write_style_of(void* state, const float* motion, int frames) {
  static_cast<void>(cudaGetLastError());  // of whoever called this thread's CUDA before
  const int D = model_.sizes.channels;
  auto* ranges = reinterpret_cast<RowRange*>(host_call_);
  ranges[0] = {0, frames}, ranges[1] = {0, model_.sizes.style_tokens};
  auto* clip = reinterpret_cast<float*>(host_call_ + kCacheLine);
  std::copy(motion, motion + int64_t{frames} * D, clip);
  // The two lie on the device as they do here.
  const size_t bytes = kCacheLine + static_cast<size_t>(frames * D) * sizeof(float);
  UNILS_CUDA_RETURN_IF_ERROR(
      cudaMemcpyAsync(work_.style_frames, host_call_, bytes, cudaMemcpyHostToDevice, stream_.get()), "to take a style");
  if (frames > 0) enqueue_style_encoder(frames);
  enqueue_style_tokens(frames > 0 ? work_.style_tokens : model_.weights.style_null, static_cast<float*>(state));
  const cudaError_t enqueued = cudaGetLastError();
  UNILS_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream_.get()), "to take a style");
  return status_of(enqueued, "to take a style");
}

void Workspace::enqueue_style_encoder(int frames) const {
  const cudaStream_t stream = stream_.get();
  const Weights& weights = model_.weights;
  const unils_stream_sizes& s = model_.sizes;
  normalise_rows(work_.style_frames, frames, weights.motion_mean, weights.motion_std, s.channels, work_.style_motion,
                 stream);
  const StackRun run = {work_.style_frames, frames,        nullptr, nullptr, {{}, {}}, work_.style_x, work_.style_h,
                        work_.style_wide};
  enqueue_stack(weights.encoder, run, work_.style_motion, s.channels);
  LinearCall to_z = linear_call(weights.encoder_output, work_.style_frames, frames, work_.style_x, work_.style_z);
  to_z.norm = weights.encoder.norm;
  linear(to_z, stream);
  quantise_rows(work_.style_frames, frames, weights.gains, s.levels, s.bits, work_.style_z, stream);
  pool_rows(work_.style_frames, s.style_tokens, s.bits, work_.style_z, work_.style_pooled, stream);
  LinearCall up =
      linear_call(weights.style_up, work_.style_rows, s.style_tokens, work_.style_pooled, work_.style_hidden);
  up.gelu = true;
  linear(up, stream);
  linear(linear_call(weights.style_down, work_.style_rows, s.style_tokens, work_.style_hidden, work_.style_tokens),
         stream);
}

}  // namespace unils::cuda
