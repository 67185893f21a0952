#include "backends/cpu/generator.h"

#include <algorithm>
#include <cmath>

#include "backends/cpu/batch.h"
#include "engine/sampler.h"

namespace unils {

// Rows [0, count) are those of the requests, with audio; then come the ones without, of the requests with guidance.
struct Generator::Work {
  const unils_step_request* requests;
  int count, rows;
  int request_of[kMaxBatchRows];  // by row
  int without_audio[kMaxBatch];   // by request: its other row, or -1

  // Floats between rows.
  int stride;  // of x, h, attended and rotated
  int qkv_stride, wide_stride, angle_stride, bits_stride, all_hidden_stride, hidden_stride, logits_stride;
  float *x, *h, *attended;          // (rows, W)
  float *qkv, *wide;                // (rows, 3 W), (rows, feed_forward)
  float* rotated;                   // (count, W)
  float *cosines, *sines;           // (count, head_width / 2)
  float* scores;
  float *bits, *bits_term;          // (count, L * d), (count, F)
  float *all_hidden, *hidden;       // (rows, L * F), (rows, F)
  float *logits, *guided;           // (rows, d), (d)
  size_t floats;

  const unils_step_request& request(int row) const { return requests[request_of[row]]; }
};

Generator::Work Generator::work_in(float* scratch, int count) const {
  Work work = {};
  const auto take = [&](int64_t floats) {
    float* at = scratch == nullptr ? nullptr : scratch + work.floats;
    work.floats += round_up(static_cast<size_t>(floats), kSlotBlock);
    return at;
  };
  const int rows = 2 * count;
  work.stride = round_to_block(sizes_.width);
  work.qkv_stride = round_to_block(3 * sizes_.width);
  work.wide_stride = round_to_block(sizes_.feed_forward);
  work.angle_stride = round_to_block(head_width_ / 2);
  work.bits_stride = round_to_block(sizes_.levels * sizes_.bits);
  work.all_hidden_stride = round_to_block(sizes_.levels * sizes_.head_width);
  work.hidden_stride = round_to_block(sizes_.head_width);
  work.logits_stride = round_to_block(sizes_.bits);
  work.x = take(rows * work.stride);
  work.h = take(rows * work.stride);
  work.attended = take(rows * work.stride);
  work.qkv = take(rows * work.qkv_stride);
  work.wide = take(rows * work.wide_stride);
  work.rotated = take(count * work.stride);
  work.cosines = take(count * work.angle_stride);
  work.sines = take(count * work.angle_stride);
  const int look_ahead = std::max(sizes_.look_ahead_self_max, sizes_.look_ahead_other_max);
  work.scores =
      take(std::max(sizes_.style_tokens + sizes_.window_frames, sizes_.audio_window_frames + look_ahead) + kSlotBlock);
  work.bits = take(count * work.bits_stride);
  work.bits_term = take(count * work.hidden_stride);
  work.all_hidden = take(rows * work.all_hidden_stride);
  work.hidden = take(rows * work.hidden_stride);
  work.logits = take(rows * work.logits_stride);
  work.guided = take(work.logits_stride);
  return work;
}

Generator::Generator(Packer* packer, const unils_stream_sizes& sizes)
    : sizes_(sizes),
      head_width_(sizes.width / sizes.heads),
      score_scale_(1.0f / std::sqrt(static_cast<float>(head_width_))),
      rope_(head_width_) {
  token_ = packer->linear({"generator.token"});
  start_ = packer->values("generator.start");
  look_ahead_[0] = packer->values("generator.look_ahead_self.weight");
  look_ahead_[1] = packer->values("generator.look_ahead_other.weight");
  style_null_ = packer->values("generator.style_null");
  for (int i = 0; i < sizes.depth; ++i) {
    const std::string name = "generator.blocks." + std::to_string(i) + ".";
    Block block;
    block.self_norm = pack_norm(packer, name + "self_norm");
    block.qkv = packer->linear({name + "self_attention.qkv"});
    block.self_output = packer->linear({name + "self_attention.output"});
    for (int track = 0; track < 2; ++track) {
      const std::string cross = name + (track == 0 ? "cross_self" : "cross_other");
      block.cross[track].norm = pack_norm(packer, cross + "_norm");
      block.cross[track].query = packer->linear({cross + ".query"});
      block.cross[track].output = packer->linear({cross + ".output"});
    }
    block.feed_forward_norm = pack_norm(packer, name + "feed_forward_norm");
    block.up = packer->linear({name + "feed_forward.up"});
    block.down = packer->linear({name + "feed_forward.down"});
    blocks_.push_back(block);
  }
  norm_ = pack_norm(packer, "generator.norm");
  std::vector<std::string> hidden;
  for (int l = 0; l < sizes.levels; ++l) hidden.push_back("generator.head." + std::to_string(l) + ".hidden");
  hidden_ = packer->linear(hidden.data(), hidden.size());
  for (int l = 0; l < sizes.levels; ++l) {
    const std::string level = "generator.head." + std::to_string(l);
    HeadLevel head;
    if (l > 0) head.bits = packer->linear({level + ".bits"});
    head.output = packer->linear({level + ".output"});
    head_.push_back(head);
  }
}

int Generator::scratch_floats(int count) const { return static_cast<int>(work_in(nullptr, count).floats); }

void Generator::step(const Kernels& kernels, const StateLayout& layout, const unils_step_request* requests, int count,
                     float* scratch) const {
  Work work = work_in(scratch, count);
  const int W = sizes_.width, bits = sizes_.levels * sizes_.bits;
  work.requests = requests;
  work.count = work.rows = count;
  for (int i = 0; i < count; ++i) {
    const unils_step_request& request = requests[i];
    const bool guided = request.cfg_scale != 1.0f;
    work.without_audio[i] = guided ? work.rows : -1;
    work.request_of[i] = i;
    if (guided) work.request_of[work.rows++] = i;
    rope_.row(request.frame, work.cosines + i * work.angle_stride, work.sines + i * work.angle_stride);
    const float* last = arena_at<float>(request.state, layout.bits);
    std::copy(last, last + bits, work.bits + i * work.bits_stride);
  }

  kernels.linear(token_, work.bits, work.bits_stride, work.x, work.stride, count, false);
  for (int i = 0; i < count; ++i) {
    const unils_step_request& request = requests[i];
    float* x = work.x + i * work.stride;
    if (request.frame == 0) std::copy(start_, start_ + W, x);
    if (work.without_audio[i] >= 0) std::copy(x, x + W, work.x + work.without_audio[i] * work.stride);
    const float* heard_self = look_ahead_[0] + int64_t{request.look_ahead_self} * W;
    const float* heard_other = look_ahead_[1] + int64_t{request.look_ahead_other} * W;
    for (int c = 0; c < W; ++c) x[c] += heard_self[c] + heard_other[c];
  }

  const auto norm_rows = [&](const LayerNorm& norm) {
    for (int r = 0; r < work.rows; ++r) {
      kernels.layer_norm(work.x + r * work.stride, norm.weight, norm.bias, work.h + r * work.stride, W);
    }
  };
  for (int layer = 0; layer < sizes_.depth; ++layer) {
    const Block& block = blocks_[static_cast<size_t>(layer)];
    norm_rows(block.self_norm);
    attend_self(kernels, layout, layer, work);
    attend_track(kernels, layout, layer, 0, work);
    attend_track(kernels, layout, layer, 1, work);
    norm_rows(block.feed_forward_norm);
    kernels.linear(block.up, work.h, work.stride, work.wide, work.wide_stride, work.rows, false);
    for (int r = 0; r < work.rows; ++r) kernels.gelu(work.wide + r * work.wide_stride, sizes_.feed_forward);
    kernels.linear(block.down, work.wide, work.wide_stride, work.x, work.stride, work.rows, true);
  }
  norm_rows(norm_);
  sample(kernels, work);
  for (int i = 0; i < count; ++i) {
    const float* made = work.bits + i * work.bits_stride;
    std::copy(made, made + bits, arena_at<float>(requests[i].state, layout.bits));
  }
}

// Runs of a ring, oldest first, for one head; returns how many.
static int ring_spans(const KvRing& ring, const void* state, int layer, int head, int64_t first, int64_t count,
                      const float* query, AttentionSpan* spans) {
  const RingSpans runs = ring.index().spans(first, count);
  int n = 0;
  for (const RingSpan& run : {runs.older, runs.newer}) {
    if (run.count == 0) continue;
    spans[n++] = {
        query,    ring.keys(state, layer, head), ring.values(state, layer, head), ring.index().capacity(), run.slot,
        run.count};
  }
  return n;
}

void Generator::attend_self(const Kernels& kernels, const StateLayout& layout, int layer, const Work& work) const {
  const Block& block = blocks_[static_cast<size_t>(layer)];
  const int W = sizes_.width;
  kernels.linear(block.qkv, work.h, work.stride, work.qkv, work.qkv_stride, work.rows, false);
  for (int r = 0; r < work.rows; ++r) {
    const unils_step_request& request = work.request(r);
    const KvRing& past = layout.self[r < work.count ? 0 : 1];
    const int64_t first = std::max<int64_t>(0, request.frame - sizes_.window_frames + 1);
    const int64_t count = request.frame + 1 - first;
    const float* query = work.qkv + r * work.qkv_stride;
    float* key = work.qkv + r * work.qkv_stride + W;
    const float* cosines = work.cosines + work.request_of[r] * work.angle_stride;
    const float* sines = work.sines + work.request_of[r] * work.angle_stride;
    rope_.rotate(query, sizes_.heads, cosines, sines, work.rotated);
    rope_.rotate(key, sizes_.heads, cosines, sines, key);
    past.write(request.state, layer, request.frame, key, key + W);
    for (int head = 0; head < sizes_.heads; ++head) {
      const int at = head * head_width_;
      AttentionSpan spans[3];
      int n = ring_spans(layout.style, request.state, layer, head, 0, sizes_.style_tokens, query + at, spans);
      n += ring_spans(past, request.state, layer, head, first, count, work.rotated + at, spans + n);
      kernels.attention(spans, n, head_width_, score_scale_, work.scores, work.attended + r * work.stride + at);
    }
  }
  kernels.linear(block.self_output, work.attended, work.stride, work.x, work.stride, work.rows, true);
}

// Only the rows with audio hear.
void Generator::attend_track(const Kernels& kernels, const StateLayout& layout, int layer, int track,
                             const Work& work) const {
  const Cross& cross = blocks_[static_cast<size_t>(layer)].cross[track];
  for (int r = 0; r < work.count; ++r) {
    kernels.layer_norm(work.x + r * work.stride, cross.norm.weight, cross.norm.bias, work.h + r * work.stride,
                       sizes_.width);
  }
  kernels.linear(cross.query, work.h, work.stride, work.rotated, work.stride, work.count, false);
  for (int r = 0; r < work.count; ++r) {
    const unils_step_request& request = work.requests[r];
    const int look_ahead = track == 0 ? request.look_ahead_self : request.look_ahead_other;
    const int64_t first = std::max<int64_t>(0, request.frame - sizes_.audio_window_frames + 1);
    const int64_t count = request.frame + look_ahead + 1 - first;
    float* query = work.rotated + r * work.stride;
    rope_.rotate(query, sizes_.heads, work.cosines + r * work.angle_stride, work.sines + r * work.angle_stride, query);
    for (int head = 0; head < sizes_.heads; ++head) {
      const int at = head * head_width_;
      AttentionSpan spans[2];
      const int n = ring_spans(layout.cross[track], request.state, layer, head, first, count, query + at, spans);
      kernels.attention(spans, n, head_width_, score_scale_, work.scores, work.attended + r * work.stride + at);
    }
  }
  kernels.linear(cross.output, work.attended, work.stride, work.x, work.stride, work.count, true);
}

void Generator::sample(const Kernels& kernels, const Work& work) const {
  const int F = sizes_.head_width, d = sizes_.bits;
  kernels.linear(hidden_, work.h, work.stride, work.all_hidden, work.all_hidden_stride, work.rows, false);
  std::fill(work.bits_term, work.bits_term + work.count * work.hidden_stride, 0.0f);
  for (int level = 0; level < sizes_.levels; ++level) {
    const HeadLevel& head = head_[static_cast<size_t>(level)];
    if (level > 0) {
      kernels.linear(head.bits, work.bits, work.bits_stride, work.bits_term, work.hidden_stride, work.count, false);
    }
    for (int r = 0; r < work.rows; ++r) {
      const float* from = work.all_hidden + r * work.all_hidden_stride + level * F;
      const float* term = work.bits_term + work.request_of[r] * work.hidden_stride;
      float* hidden = work.hidden + r * work.hidden_stride;
      for (int i = 0; i < F; ++i) hidden[i] = from[i] + term[i];
      kernels.gelu(hidden, F);
    }
    kernels.linear(head.output, work.hidden, work.hidden_stride, work.logits, work.logits_stride, work.rows, false);
    for (int r = 0; r < work.count; ++r) {
      const unils_step_request& request = work.requests[r];
      const float* logits = work.logits + r * work.logits_stride;
      if (work.without_audio[r] >= 0) {
        const float* without = work.logits + work.without_audio[r] * work.logits_stride;
        const float c = request.cfg_scale;
        for (int i = 0; i < d; ++i) work.guided[i] = c * logits[i] + (1.0f - c) * without[i];
        logits = work.guided;
      }
      sample_bits(logits, d, request.temperature, request.top_p, request.seed, request.frame, level,
                  work.bits + r * work.bits_stride + level * d);
      if (request.logits != nullptr) std::copy(logits, logits + d, request.logits + level * d);
    }
  }
}

void Generator::set_style_tokens(const Kernels& kernels, const StateLayout& layout, void* state, const float* tokens,
                                 float* scratch) const {
  const Work work = work_in(scratch, 1);
  const int W = sizes_.width;
  for (int layer = 0; layer < sizes_.depth; ++layer) {
    const Block& block = blocks_[static_cast<size_t>(layer)];
    for (int j = 0; j < sizes_.style_tokens; ++j) {
      kernels.layer_norm(tokens + int64_t{j} * W, block.self_norm.weight, block.self_norm.bias, work.h, W);
      kernels.linear(block.qkv, work.h, 0, work.qkv, 0, 1, false);
      layout.style.write(state, layer, j, work.qkv + W, work.qkv + 2 * W);
    }
  }
}

}  // namespace unils
