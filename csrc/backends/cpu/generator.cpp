#include "backends/cpu/generator.h"

#include <algorithm>
#include <cmath>

#include "engine/sampler.h"

namespace unils {

struct Generator::Work {
  int stride = 0;  // floats between the rows of x, h and attended
  int qkv_stride = 0, wide_stride = 0, hidden_stride = 0, logits_stride = 0;
  float *x, *h, *attended;  // (2, W)
  float *qkv, *rotated;     // (2, 3 W), (W)
  float* wide;              // (2, feed_forward)
  float *cosines, *sines;   // of the frame
  float* scores;
  float *hidden, *u, *bits_term;  // (2, L * F), (2, F), (F)
  float* logits;                  // (2, d)
  float* guided;                  // (d)
  size_t floats = 0;
};

Generator::Work Generator::work_in(float* scratch) const {
  Work work = {};
  const auto take = [&](int64_t floats) {
    float* at = scratch == nullptr ? nullptr : scratch + work.floats;
    work.floats += round_up(static_cast<size_t>(floats), kSlotBlock);
    return at;
  };
  work.stride = round_to_block(sizes_.width);
  work.qkv_stride = round_to_block(3 * sizes_.width);
  work.wide_stride = round_to_block(sizes_.feed_forward);
  work.hidden_stride = round_to_block(sizes_.head_width);
  work.logits_stride = round_to_block(sizes_.bits);
  work.x = take(2 * work.stride);
  work.h = take(2 * work.stride);
  work.attended = take(2 * work.stride);
  work.qkv = take(2 * work.qkv_stride);
  work.rotated = take(work.stride);
  work.wide = take(2 * work.wide_stride);
  work.cosines = take(head_width_);
  work.sines = take(head_width_);
  const int look_ahead = std::max(sizes_.look_ahead_self_max, sizes_.look_ahead_other_max);
  work.scores =
      take(std::max(sizes_.style_tokens + sizes_.window_frames, sizes_.audio_window_frames + look_ahead) + kSlotBlock);
  work.hidden = take(int64_t{2} * sizes_.levels * sizes_.head_width);
  work.u = take(2 * work.hidden_stride);
  work.bits_term = take(work.hidden_stride);
  work.logits = take(2 * work.logits_stride);
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

int Generator::scratch_floats() const { return static_cast<int>(work_in(nullptr).floats); }

void Generator::step(const Kernels& kernels, const StateLayout& layout, const unils_step_request& request,
                     float* scratch) const {
  Work work = work_in(scratch);
  const int W = sizes_.width;
  const int rows = request.cfg_scale == 1.0f ? 1 : 2;
  float* bits = arena_at<float>(request.state, layout.bits);
  rope_.row(request.frame, work.cosines, work.sines);

  if (request.frame == 0) {
    std::copy(start_, start_ + W, work.x);
  } else {
    kernels.linear(token_, bits, 0, work.x, 0, 1, false);
  }
  std::copy(work.x, work.x + W, work.x + work.stride);
  const float* heard_self = look_ahead_[0] + int64_t{request.look_ahead_self} * W;
  const float* heard_other = look_ahead_[1] + int64_t{request.look_ahead_other} * W;
  for (int i = 0; i < W; ++i) work.x[i] += heard_self[i] + heard_other[i];

  for (int layer = 0; layer < sizes_.depth; ++layer) {
    const Block& block = blocks_[static_cast<size_t>(layer)];
    attend_self(kernels, layout, request, layer, rows, &work);
    attend_track(kernels, layout, request, layer, 0, &work);
    attend_track(kernels, layout, request, layer, 1, &work);
    for (int r = 0; r < rows; ++r) {
      kernels.layer_norm(work.x + r * work.stride, block.feed_forward_norm.weight, block.feed_forward_norm.bias,
                         work.h + r * work.stride, W);
    }
    kernels.linear(block.up, work.h, work.stride, work.wide, work.wide_stride, rows, false);
    for (int r = 0; r < rows; ++r) kernels.gelu(work.wide + r * work.wide_stride, sizes_.feed_forward);
    kernels.linear(block.down, work.wide, work.wide_stride, work.x, work.stride, rows, true);
  }
  for (int r = 0; r < rows; ++r) {
    kernels.layer_norm(work.x + r * work.stride, norm_.weight, norm_.bias, work.h + r * work.stride, W);
  }
  sample(kernels, request, rows, bits, &work);
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

void Generator::attend_self(const Kernels& kernels, const StateLayout& layout, const unils_step_request& request,
                            int layer, int rows, Work* work) const {
  const Block& block = blocks_[static_cast<size_t>(layer)];
  const int W = sizes_.width;
  for (int r = 0; r < rows; ++r) {
    kernels.layer_norm(work->x + r * work->stride, block.self_norm.weight, block.self_norm.bias,
                       work->h + r * work->stride, W);
  }
  kernels.linear(block.qkv, work->h, work->stride, work->qkv, work->qkv_stride, rows, false);

  const int64_t first = std::max<int64_t>(0, request.frame - sizes_.window_frames + 1);
  const int64_t count = request.frame + 1 - first;
  for (int r = 0; r < rows; ++r) {
    const float* query = work->qkv + r * work->qkv_stride;
    float* key = work->qkv + r * work->qkv_stride + W;
    rope_.rotate(query, sizes_.heads, work->cosines, work->sines, work->rotated);
    rope_.rotate(key, sizes_.heads, work->cosines, work->sines, key);
    layout.self[r].write(request.state, layer, request.frame, key, key + W);
    for (int head = 0; head < sizes_.heads; ++head) {
      const int at = head * head_width_;
      AttentionSpan spans[3];
      int n = ring_spans(layout.style, request.state, layer, head, 0, sizes_.style_tokens, query + at, spans);
      n += ring_spans(layout.self[r], request.state, layer, head, first, count, work->rotated + at, spans + n);
      kernels.attention(spans, n, head_width_, score_scale_, work->scores, work->attended + r * work->stride + at);
    }
  }
  kernels.linear(block.self_output, work->attended, work->stride, work->x, work->stride, rows, true);
}

// Only the conditional row hears.
void Generator::attend_track(const Kernels& kernels, const StateLayout& layout, const unils_step_request& request,
                             int layer, int track, Work* work) const {
  const Cross& cross = blocks_[static_cast<size_t>(layer)].cross[track];
  const int look_ahead = track == 0 ? request.look_ahead_self : request.look_ahead_other;
  kernels.layer_norm(work->x, cross.norm.weight, cross.norm.bias, work->h, sizes_.width);
  kernels.linear(cross.query, work->h, 0, work->rotated, 0, 1, false);
  rope_.rotate(work->rotated, sizes_.heads, work->cosines, work->sines, work->rotated);

  const int64_t first = std::max<int64_t>(0, request.frame - sizes_.audio_window_frames + 1);
  const int64_t count = request.frame + look_ahead + 1 - first;
  for (int head = 0; head < sizes_.heads; ++head) {
    const int at = head * head_width_;
    AttentionSpan spans[2];
    const int n = ring_spans(layout.cross[track], request.state, layer, head, first, count, work->rotated + at, spans);
    kernels.attention(spans, n, head_width_, score_scale_, work->scores, work->attended + at);
  }
  kernels.linear(cross.output, work->attended, 0, work->x, 0, 1, true);
}

void Generator::sample(const Kernels& kernels, const unils_step_request& request, int rows, float* bits,
                       Work* work) const {
  const int F = sizes_.head_width, d = sizes_.bits;
  const int all_hidden = sizes_.levels * F;
  kernels.linear(hidden_, work->h, work->stride, work->hidden, all_hidden, rows, false);
  for (int level = 0; level < sizes_.levels; ++level) {
    const HeadLevel& head = head_[static_cast<size_t>(level)];
    std::fill(work->bits_term, work->bits_term + F, 0.0f);
    if (level > 0) kernels.linear(head.bits, bits, 0, work->bits_term, 0, 1, false);
    for (int r = 0; r < rows; ++r) {
      float* u = work->u + r * work->hidden_stride;
      const float* hidden = work->hidden + r * all_hidden + level * F;
      for (int i = 0; i < F; ++i) u[i] = hidden[i] + work->bits_term[i];
      kernels.gelu(u, F);
    }
    kernels.linear(head.output, work->u, work->hidden_stride, work->logits, work->logits_stride, rows, false);
    const float* logits = work->logits;
    if (rows == 2) {
      const float c = request.cfg_scale;
      for (int i = 0; i < d; ++i) {
        work->guided[i] = c * work->logits[i] + (1.0f - c) * work->logits[work->logits_stride + i];
      }
      logits = work->guided;
    }
    sample_bits(logits, d, request.temperature, request.top_p, request.seed, request.frame, level, bits + level * d);
    if (request.logits != nullptr) std::copy(logits, logits + d, request.logits + level * d);
  }
}

void Generator::set_style_tokens(const Kernels& kernels, const StateLayout& layout, void* state, const float* tokens,
                                 float* scratch) const {
  const Work work = work_in(scratch);
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
