#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/safetensors.h"

namespace unils {
namespace {

class TensorList {
 public:
  void vector(const std::string& name, int64_t n) { list_.push_back({name, 1, {n, 1}}); }
  void matrix(const std::string& name, int64_t out, int64_t in) { list_.push_back({name, 2, {out, in}}); }
  void linear(const std::string& name, int64_t out, int64_t in) {
    matrix(name + ".weight", out, in);
    vector(name + ".bias", out);
  }
  void norm(const std::string& name, int64_t width) {
    vector(name + ".weight", width);
    vector(name + ".bias", width);
  }
  void causal_blocks(const std::string& prefix, int depth, int64_t width, int64_t kernel, int64_t expansion) {
    for (int i = 0; i < depth; ++i) {
      const std::string block = prefix + ".blocks." + std::to_string(i);
      linear(block + ".conv", width, kernel);  // depthwise: (width, kernel) and a bias
      norm(block + ".norm", width);
      linear(block + ".up", expansion * width, width);
      linear(block + ".down", width, expansion * width);
    }
    norm(prefix + ".norm", width);
  }
  std::vector<TensorShape> sorted() {
    std::sort(list_.begin(), list_.end(), [](const TensorShape& a, const TensorShape& b) { return a.name < b.name; });
    return std::move(list_);
  }

 private:
  std::vector<TensorShape> list_;
};

std::string shape_text(int rank, const int64_t* shape) {
  std::string text = "(" + std::to_string(shape[0]);
  if (rank == 2) text += ", " + std::to_string(shape[1]);
  return text + ")";
}

}  // namespace

std::vector<TensorShape> expected_tensors(const unils_stream_sizes& sizes) {
  const int64_t A = sizes.audio_width, H = sizes.codec_width, W = sizes.width, F = sizes.head_width;
  const int64_t D = sizes.channels, d = sizes.bits, L = sizes.levels, S = sizes.style_tokens;
  TensorList list;

  list.vector("audio_encoder.mel_mean", sizes.mels);
  list.vector("audio_encoder.mel_std", sizes.mels);
  list.linear("audio_encoder.input", A, sizes.row_values);
  list.causal_blocks("audio_encoder", sizes.audio_depth, A, sizes.audio_kernel, sizes.audio_expansion);

  list.vector("codec.motion_mean", D);
  list.vector("codec.motion_std", D);
  list.linear("codec.encoder.input", H, D);
  list.causal_blocks("codec.encoder", sizes.codec_depth, H, sizes.codec_kernel, sizes.codec_expansion);
  list.linear("codec.encoder.output", d, H);
  list.linear("codec.decoder.input", H, d);
  list.causal_blocks("codec.decoder", sizes.codec_depth, H, sizes.codec_kernel, sizes.codec_expansion);
  list.linear("codec.decoder.output", D, H);

  const std::string generator = "generator.";
  list.linear(generator + "token", W, L * d);
  list.vector(generator + "start", W);
  list.matrix(generator + "look_ahead_self.weight", sizes.look_ahead_self_max + 1, W);
  list.matrix(generator + "look_ahead_other.weight", sizes.look_ahead_other_max + 1, W);
  list.matrix(generator + "style_null", S, W);
  list.linear(generator + "style.up", W, d);
  list.linear(generator + "style.down", W, W);
  for (int i = 0; i < sizes.depth; ++i) {
    const std::string block = generator + "blocks." + std::to_string(i) + ".";
    list.norm(block + "self_norm", W);
    list.matrix(block + "self_attention.qkv.weight", 3 * W, W);
    list.linear(block + "self_attention.output", W, W);
    for (const char* cross : {"cross_self", "cross_other"}) {
      list.norm(block + cross + "_norm", W);
      list.linear(block + cross + ".query", W, W);
      list.linear(block + cross + ".key", W, A);
      list.linear(block + cross + ".value", W, A);
      list.linear(block + cross + ".output", W, W);
    }
    list.norm(block + "feed_forward_norm", W);
    list.linear(block + "feed_forward.up", sizes.feed_forward, W);
    list.linear(block + "feed_forward.down", W, sizes.feed_forward);
  }
  list.norm(generator + "norm", W);
  for (int64_t l = 0; l < L; ++l) {
    const std::string head = generator + "head." + std::to_string(l);
    list.linear(head + ".hidden", F, W);
    if (l > 0) list.matrix(head + ".bits.weight", F, l * d);
    list.linear(head + ".output", d, F);
  }
  return list.sorted();
}

std::vector<TensorShape> expected_tensors(const PublishedConfig& sizes) {
  TensorList list;
  list.matrix("audio.silence", sizes.audio_rows, sizes.audio_width);
  list.vector("codec.motion_mean", sizes.channels);
  list.vector("codec.motion_std", sizes.channels);
  list.matrix("codec.rest_latent", sizes.window_frames, sizes.bits);
  list.vector("generator.positions", sizes.tokens());
  return list.sorted();
}

const float* Weights::find(const char* name) const {
  const auto found = std::find_if(tensors_.begin(), tensors_.end(),
                                  [name](const unils_tensor& tensor) { return std::strcmp(tensor.name, name) == 0; });
  return found == tensors_.end() ? nullptr : found->values;
}

Status Weights::read(const std::vector<char>& file, const std::vector<TensorShape>& expected, Weights* weights) {
  std::vector<TensorView> found;
  UNILS_RETURN_IF_ERROR(parse_safetensors(file.data(), static_cast<int64_t>(file.size()), &found));

  for (size_t i = 0; i < std::max(expected.size(), found.size()); ++i) {
    if (i >= expected.size() || (i < found.size() && found[i].name < expected[i].name)) {
      return error(UNILS_ERROR_BUNDLE, "the weights file holds a tensor that this model does not have: %s",
                   printable(found[i].name).c_str());
    }
    if (i >= found.size() || found[i].name != expected[i].name) {
      return error(UNILS_ERROR_BUNDLE, "the weights file has no tensor %s", expected[i].name.c_str());
    }
    if (found[i].rank != expected[i].rank || found[i].shape[0] != expected[i].shape[0] ||
        found[i].shape[1] != expected[i].shape[1]) {
      return error(UNILS_ERROR_BUNDLE, "tensor %s has the shape %s where model.json asks for %s", found[i].name.c_str(),
                   shape_text(found[i].rank, found[i].shape).c_str(),
                   shape_text(expected[i].rank, expected[i].shape).c_str());
    }
  }

  int64_t total = 0;
  for (const TensorView& tensor : found) total += tensor.count;
  weights->values_.resize(static_cast<size_t>(total));
  weights->names_.reserve(found.size());  // pointers into it must stay
  weights->tensors_.clear();
  float* at = weights->values_.data();
  for (const TensorView& tensor : found) {
    std::memcpy(at, file.data() + tensor.offset, static_cast<size_t>(tensor.count) * sizeof(float));
    const bool finite = std::all_of(at, at + tensor.count, [](float value) { return std::isfinite(value); });
    if (!finite) {
      return error(UNILS_ERROR_BUNDLE, "tensor %s holds a value that is not finite", tensor.name.c_str());
    }
    const bool is_std = tensor.name == "audio_encoder.mel_std" || tensor.name == "codec.motion_std";
    if (is_std && !std::all_of(at, at + tensor.count, [](float value) { return value > 0.0f; })) {
      return error(UNILS_ERROR_BUNDLE, "tensor %s is divided by, so every value must be above 0", tensor.name.c_str());
    }
    const auto is_position = [](float value) { return value >= 0.0f && value < 65536.0f && value == std::floor(value); };
    if (tensor.name == "generator.positions" && !std::all_of(at, at + tensor.count, is_position)) {
      return error(UNILS_ERROR_BUNDLE, "tensor %s must hold whole numbers from 0 to 65535", tensor.name.c_str());
    }
    weights->names_.push_back(tensor.name);
    weights->tensors_.push_back({weights->names_.back().c_str(), at, {tensor.shape[0], tensor.shape[1]}});
    at += tensor.count;
  }
  return Status();
}

}  // namespace unils
