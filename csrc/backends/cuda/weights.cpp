#include "backends/cuda/weights.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string_view>

#include "core/arena.h"

namespace unils::cuda {

// Runs twice over the same tensors: first without a block, to add up sizes, then with one, to write what is then
// copied to the device. What it returns points into the device's copy.
class Weights::Packer {
 public:
  Packer(const unils_model_spec& spec, Element element, char* host, void* device)
      : spec_(spec), element_(element), host_(host), device_(reinterpret_cast<uintptr_t>(device)) {}

  size_t bytes() const { return bytes_; }

  template <typename T>
  const T* put(const T* values, size_t count) {
    const size_t at = take(count * sizeof(T));
    if (host_ != nullptr) std::copy(values, values + count, reinterpret_cast<T*>(host_ + at));
    return reinterpret_cast<const T*>(device_ + at);
  }
  template <typename T>
  const T* put(const std::vector<T>& values) {
    return put(values.data(), values.size());
  }

  const float* values(const std::string& name) {
    const unils_tensor& source = tensor(name);
    return put(source.values, static_cast<size_t>(source.shape[0] * source.shape[1]));
  }
  // Tensors one after the other, each as it is.
  const float* joined(const std::vector<std::string>& names) {
    std::vector<float> all;
    for (const std::string& name : names) {
      const unils_tensor& source = tensor(name);
      all.insert(all.end(), source.values, source.values + source.shape[0] * source.shape[1]);
    }
    return put(all);
  }
  // Transposes of matrices, one after the other.
  const float* transposed(const std::vector<std::string>& names) {
    std::vector<float> all;
    for (const std::string& name : names) {
      const unils_tensor& source = tensor(name);
      for (int64_t column = 0; column < source.shape[1]; ++column) {
        for (int64_t row = 0; row < source.shape[0]; ++row) {
          all.push_back(source.values[row * source.shape[1] + column]);
        }
      }
    }
    return put(all);
  }
  LayerNormAt norm(const std::string& name) {
    const float* weight = values(name + ".weight");
    return {weight, values(name + ".bias")};
  }
  // Layers stacked above each other, all with the same inputs: names without ".weight" and ".bias". A bias that the
  // model does not have is zero.
  Linear linear(const std::vector<std::string>& names) {
    LinearShape shape = {static_cast<int32_t>(tensor(names[0] + ".weight").shape[1]), 0};
    std::vector<float> weight, bias;
    for (const std::string& name : names) {
      const unils_tensor& part = tensor(name + ".weight");
      weight.insert(weight.end(), part.values, part.values + part.shape[0] * part.shape[1]);
      const unils_tensor* part_bias = find(name + ".bias");
      if (part_bias != nullptr) bias.insert(bias.end(), part_bias->values, part_bias->values + part.shape[0]);
      shape.out += static_cast<int32_t>(part.shape[0]);
      bias.resize(static_cast<size_t>(shape.out));
    }
    bias.resize(static_cast<size_t>(shape.padded_out()));
    const size_t at = take(static_cast<size_t>(shape.weight_bytes(element_)));
    if (host_ != nullptr) pack_linear(shape, weight.data(), element_, host_ + at);
    return {reinterpret_cast<const void*>(device_ + at), put(bias), shape.in, shape.out, element_};
  }
  Stack stack(const std::string& name, int width, int depth, int kernel, int expansion) {
    Stack stack;
    stack.width = width, stack.kernel = kernel, stack.expansion = expansion;
    stack.input = linear({name + ".input"});
    for (int i = 0; i < depth; ++i) {
      const std::string block = name + ".blocks." + std::to_string(i);
      Stack::Block packed = {};
      packed.conv_weight = transposed({block + ".conv.weight"});
      packed.conv_bias = values(block + ".conv.bias");
      packed.norm = norm(block + ".norm");
      packed.up = linear({block + ".up"});
      packed.down = linear({block + ".down"});
      stack.blocks.push_back(packed);
    }
    stack.norm = norm(name + ".norm");
    return stack;
  }

 private:
  const unils_tensor* find(const std::string& name) const {
    const unils_tensor* end = spec_.tensors + spec_.tensor_count;
    const unils_tensor* at = std::lower_bound(
        spec_.tensors, end, name,
        [](const unils_tensor& tensor, const std::string& wanted) { return std::string_view(tensor.name) < wanted; });
    return at != end && name == at->name ? at : nullptr;
  }
  const unils_tensor& tensor(const std::string& name) const {
    const unils_tensor* found = find(name);
    if (found == nullptr) throw std::out_of_range("the model has no tensor " + name);
    return *found;
  }
  size_t take(size_t bytes) {
    constexpr size_t kAlignment = 256;  // as cudaMalloc's: whole vectors, whole lines
    const size_t at = bytes_;
    bytes_ += round_up(bytes, kAlignment);
    return at;
  }

  const unils_model_spec& spec_;
  Element element_;
  char* host_;
  uintptr_t device_;
  size_t bytes_ = 0;
};

void Weights::lay_out(Packer* packer, const unils_model_spec& spec) {
  const unils_stream_sizes& sizes = *spec.sizes;
  const unils_features& features = *spec.features;
  const LogMel tables({features.sample_rate, features.window_samples, features.step_samples, features.fft_size,
                       features.mels, features.low_hz, features.high_hz, features.floor});
  log_mel.window_samples = features.window_samples, log_mel.step_samples = features.step_samples;
  log_mel.hop_samples = features.hop_samples, log_mel.fft_size = features.fft_size;
  log_mel.mels = features.mels, log_mel.floor = features.floor;
  log_mel.hann = packer->put(tables.hann());
  log_mel.cosines = packer->put(tables.fft().cosines());
  log_mel.sines = packer->put(tables.fft().sines());
  log_mel.reversed = packer->put(tables.fft().reversed());
  std::vector<int32_t> first, count, at;
  for (const LogMel::Filter& filter : tables.filters()) {
    first.push_back(filter.first), count.push_back(filter.count), at.push_back(static_cast<int32_t>(filter.weights));
  }
  log_mel.first = packer->put(first), log_mel.count = packer->put(count), log_mel.at = packer->put(at);
  log_mel.weights = packer->put(tables.weights());

  mel_mean = packer->values("audio_encoder.mel_mean");
  mel_std = packer->values("audio_encoder.mel_std");
  audio = packer->stack("audio_encoder", sizes.audio_width, sizes.audio_depth, sizes.audio_kernel,
                        sizes.audio_expansion);
  const char* const cross_names[] = {"cross_self", "cross_other"};
  for (int track = 0; track < 2; ++track) {
    std::vector<std::string> names;
    for (int layer = 0; layer < sizes.depth; ++layer) {
      const std::string cross = "generator.blocks." + std::to_string(layer) + "." + cross_names[track];
      names.push_back(cross + ".key");
      names.push_back(cross + ".value");
    }
    keys_values[track] = packer->linear(names);
  }

  token_weight = packer->transposed({"generator.token.weight"});
  token_bias = packer->values("generator.token.bias");
  start = packer->values("generator.start");
  look_ahead[0] = packer->values("generator.look_ahead_self.weight");
  look_ahead[1] = packer->values("generator.look_ahead_other.weight");
  std::vector<double> angles;
  const int head_width = sizes.width / sizes.heads;
  for (int i = 0; i < head_width; i += 2) angles.push_back(std::pow(10000.0, -static_cast<double>(i) / head_width));
  frequencies = packer->put(angles);
  blocks.clear();
  for (int i = 0; i < sizes.depth; ++i) {
    const std::string name = "generator.blocks." + std::to_string(i) + ".";
    Block block = {};
    block.self_norm = packer->norm(name + "self_norm");
    block.qkv = packer->linear({name + "self_attention.qkv"});
    block.self_output = packer->linear({name + "self_attention.output"});
    for (int track = 0; track < 2; ++track) {
      const std::string cross = name + cross_names[track];
      block.cross[track].norm = packer->norm(cross + "_norm");
      block.cross[track].query = packer->linear({cross + ".query"});
      block.cross[track].output = packer->linear({cross + ".output"});
    }
    block.feed_forward_norm = packer->norm(name + "feed_forward_norm");
    block.up = packer->linear({name + "feed_forward.up"});
    block.down = packer->linear({name + "feed_forward.down"});
    blocks.push_back(block);
  }
  norm = packer->norm("generator.norm");
  std::vector<std::string> hidden_names, bits_names, output_names, bias_names;
  for (int level = 0; level < sizes.levels; ++level) {
    const std::string name = "generator.head." + std::to_string(level);
    hidden_names.push_back(name + ".hidden");
    if (level > 0) bits_names.push_back(name + ".bits.weight");
    output_names.push_back(name + ".output.weight");
    bias_names.push_back(name + ".output.bias");
  }
  hidden = packer->linear(hidden_names);
  head_bits = packer->transposed(bits_names);
  head_output = packer->joined(output_names);
  head_bias = packer->joined(bias_names);
  gains = packer->put(spec.gains, static_cast<size_t>(sizes.levels));

  decoder = packer->stack("codec.decoder", sizes.codec_width, sizes.codec_depth, sizes.codec_kernel,
                          sizes.codec_expansion);
  decoder_output = packer->linear({"codec.decoder.output"});
  motion_mean = packer->values("codec.motion_mean");
  motion_std = packer->values("codec.motion_std");
  step_bytes = packer->bytes();

  encoder = packer->stack("codec.encoder", sizes.codec_width, sizes.codec_depth, sizes.codec_kernel,
                          sizes.codec_expansion);
  encoder_output = packer->linear({"codec.encoder.output"});
  style_up = packer->linear({"generator.style.up"});
  style_down = packer->linear({"generator.style.down"});
  style_null = packer->values("generator.style_null");
  bytes = packer->bytes();
}

Status Weights::upload(const unils_model_spec& spec, Element element, cudaStream_t stream, Weights* weights) {
  Packer sizes(spec, element, nullptr, nullptr);
  weights->lay_out(&sizes, spec);
  const std::unique_ptr<char[]> host(new char[weights->bytes]());
  UNILS_CUDA_RETURN_IF_ERROR(cudaMalloc(weights->block.out(), weights->bytes), "for the weights");
  Packer packer(spec, element, host.get(), weights->block.get());
  weights->lay_out(&packer, spec);
  return copy_to_device(weights->block.get(), host.get(), weights->bytes, stream, "to take the weights");
}

}  // namespace unils::cuda
