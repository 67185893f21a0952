// ReferenceModel: the `stream` model of docs/stream-model.md, recomputed in double precision from scratch for every
// frame: no ring, no cache, no order of sums in common with the engine. It is told the bits of past frames.
#pragma once
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "bundle_writer.h"
#include "core/philox.h"

namespace unils {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

class ReferenceModel {
 public:
  explicit ReferenceModel(const BundleWriter& bundle)
      : s_(bundle.sizes), gains_(bundle.gains.begin(), bundle.gains.end()) {
    for (const BundleWriter::Tensor& tensor : bundle.tensors) {
      tensors_[tensor.shape.name] = Row(tensor.values.begin(), tensor.values.end());
    }
  }

  // Log-mel rows (256 each) -> audio rows (A each).
  Rows encode_audio(const Rows& log_mel) const {
    Rows normal = log_mel;
    for (Row& row : normal) {
      for (size_t i = 0; i < row.size(); ++i) {
        const size_t mel = i % static_cast<size_t>(s_.mels);
        row[i] = (row[i] - at("audio_encoder.mel_mean")[mel]) / at("audio_encoder.mel_std")[mel];
      }
    }
    return stack("audio_encoder", normal, s_.audio_depth);
  }

  Rows style_tokens(const Rows& motion) const {
    const size_t S = static_cast<size_t>(s_.style_tokens), W = static_cast<size_t>(s_.width),
                 d = static_cast<size_t>(s_.bits);
    if (motion.empty()) {
      Rows tokens;
      for (size_t j = 0; j < S; ++j)
        tokens.emplace_back(at("generator.style_null").begin() + static_cast<long>(j * W),
                            at("generator.style_null").begin() + static_cast<long>((j + 1) * W));
      return tokens;
    }
    Rows normal = motion;
    for (Row& row : normal) {
      for (size_t i = 0; i < row.size(); ++i)
        row[i] = (row[i] - at("codec.motion_mean")[i]) / at("codec.motion_std")[i];
    }
    Rows latents;
    for (const Row& row : stack("codec.encoder", normal, s_.codec_depth)) {
      Row z = linear("codec.encoder.output", row);
      double squares = 0.0;
      for (const double v : z) squares += v * v;
      const double length = std::max(std::sqrt(squares), 1e-6);
      for (double& v : z) {
        double residual = v / length, sum = 0.0;
        for (const double gain : gains_) {
          const double code = (residual > 0.0 ? gain : -gain) / std::sqrt(static_cast<double>(d));
          sum += code, residual -= code;
        }
        v = sum;
      }
      latents.push_back(z);
    }
    Rows tokens;
    for (size_t j = 0; j < S; ++j) {
      const size_t begin = j * latents.size() / S, end = ((j + 1) * latents.size() + S - 1) / S;
      Row pooled(d, 0.0);
      for (size_t t = begin; t < end; ++t) {
        for (size_t i = 0; i < d; ++i) pooled[i] += latents[t][i] / static_cast<double>(end - begin);
      }
      tokens.push_back(linear("generator.style.down", gelu(linear("generator.style.up", pooled))));
    }
    return tokens;
  }

  struct Heard {
    Rows rows[2];  // audio rows by track
    int look_ahead[2] = {0, 0};
  };

  // Guided logits (L * d) of the last of `bits.size()` frames; bits[t]: (L * d) of +-1 of frame t. Bits of the last
  // frame count only for the levels after them. first_frame: index of bits[0]; it must lie before every window.
  Row logits(const Rows& bits, const Rows& style, const Heard& heard, double cfg_scale, int64_t first_frame = 0) const {
    Row cond = hidden(bits, style, &heard, first_frame), uncond;
    if (cfg_scale != 1.0) uncond = hidden(bits, style, nullptr, first_frame);
    const size_t d = static_cast<size_t>(s_.bits);
    Row out;
    for (size_t l = 0; l < static_cast<size_t>(s_.levels); ++l) {
      const Row before(bits.back().begin(), bits.back().begin() + static_cast<long>(l * d));
      const Row c = head(l, cond, before);
      const Row u = uncond.empty() ? c : head(l, uncond, before);
      for (size_t i = 0; i < d; ++i)
        out.push_back(cfg_scale == 1.0 ? c[i] : cfg_scale * c[i] + (1.0 - cfg_scale) * u[i]);
    }
    return out;
  }

  // Motion (D) of every frame.
  Rows motion(const Rows& bits) const {
    const size_t d = static_cast<size_t>(s_.bits);
    Rows latents;
    for (const Row& frame : bits) {
      Row latent(d, 0.0);
      for (size_t i = 0; i < frame.size(); ++i)
        latent[i % d] += gains_[i / d] * frame[i] / std::sqrt(static_cast<double>(d));
      latents.push_back(latent);
    }
    Rows out;
    for (const Row& row : stack("codec.decoder", latents, s_.codec_depth)) {
      Row motion = linear("codec.decoder.output", row);
      for (size_t i = 0; i < motion.size(); ++i)
        motion[i] = motion[i] * at("codec.motion_std")[i] + at("codec.motion_mean")[i];
      out.push_back(motion);
    }
    return out;
  }

  // The bit that `logit` gives, and how far the decision was from falling the other way.
  static bool sample(double logit, double temperature, double top_p, uint64_t seed, int64_t frame, int level, int bit,
                     double* margin) {
    if (temperature == 0.0) {
      *margin = std::fabs(logit);
      return logit > 0.0;
    }
    const double p = 1.0 / (1.0 + std::exp(-logit / temperature));
    const auto f = static_cast<uint64_t>(frame);
    const uint32_t word = philox4x32_10({static_cast<uint32_t>(bit), static_cast<uint32_t>(level),
                                         static_cast<uint32_t>(f), static_cast<uint32_t>(f >> 32)},
                                        {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)})[0];
    const double u = (word >> 8) * 0x1p-24;
    *margin = std::min({std::fabs(p - top_p), std::fabs(1.0 - p - top_p), std::fabs(u - p)});
    return p >= top_p || (1.0 - p < top_p && u < p);
  }

 private:
  const Row& at(const std::string& name) const { return tensors_.at(name); }
  Row linear(const std::string& name, const Row& x) const {
    const Row& weight = at(name + ".weight");
    const auto bias = tensors_.find(name + ".bias");
    const size_t out = weight.size() / x.size();
    Row y(out, 0.0);
    for (size_t o = 0; o < out; ++o) {
      if (bias != tensors_.end()) y[o] = bias->second[o];
      for (size_t i = 0; i < x.size(); ++i) y[o] += weight[o * x.size() + i] * x[i];
    }
    return y;
  }
  Row norm(const std::string& name, const Row& x) const {
    double mean = 0.0, variance = 0.0;
    for (const double v : x) mean += v / static_cast<double>(x.size());
    for (const double v : x) variance += (v - mean) * (v - mean) / static_cast<double>(x.size());
    Row y(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      y[i] = (x[i] - mean) / std::sqrt(variance + 1e-5) * at(name + ".weight")[i] + at(name + ".bias")[i];
    }
    return y;
  }
  static Row gelu(Row x) {
    for (double& v : x) v = 0.5 * v * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (v + 0.044715 * v * v * v)));
    return x;
  }
  static void add(Row* x, const Row& y) {
    for (size_t i = 0; i < x->size(); ++i) (*x)[i] += y[i];
  }

  Rows stack(const std::string& name, const Rows& inputs, int depth) const {
    Rows x;
    for (const Row& input : inputs) x.push_back(linear(name + ".input", input));
    for (int i = 0; i < depth; ++i) {
      const std::string block = name + ".blocks." + std::to_string(i);
      const size_t width = x.empty() ? 0 : x[0].size();
      const size_t kernel = at(block + ".conv.weight").size() / std::max<size_t>(width, 1);
      Rows y = x;
      for (size_t t = 0; t < x.size(); ++t) {
        Row conv = at(block + ".conv.bias");
        for (size_t c = 0; c < width; ++c) {
          for (size_t tap = 0; tap < kernel; ++tap) {
            if (t + tap + 1 >= kernel)
              conv[c] += at(block + ".conv.weight")[c * kernel + tap] * x[t + tap + 1 - kernel][c];
          }
        }
        add(&y[t], linear(block + ".down", gelu(linear(block + ".up", norm(block + ".norm", conv)))));
      }
      x = y;
    }
    for (Row& row : x) row = norm(name + ".norm", row);
    return x;
  }

  Row turned(const Row& x, int64_t position) const {
    const size_t e = static_cast<size_t>(s_.width / s_.heads);
    Row y = x;
    for (size_t i = 0; i < x.size(); i += 2) {
      const double angle =
          static_cast<double>(position) * std::pow(10000.0, -static_cast<double>(i % e) / static_cast<double>(e));
      y[i] = x[i] * std::cos(angle) - x[i + 1] * std::sin(angle);
      y[i + 1] = x[i] * std::sin(angle) + x[i + 1] * std::cos(angle);
    }
    return y;
  }

  struct Entry {
    const Row* query;
    Row key, value;
  };
  Row attend(const std::vector<Entry>& entries) const {
    const size_t W = static_cast<size_t>(s_.width), e = W / static_cast<size_t>(s_.heads);
    Row out(W, 0.0);
    for (size_t h = 0; h < W; h += e) {
      Row weights;
      double total = 0.0;
      for (const Entry& entry : entries) {
        double dot = 0.0;
        for (size_t i = h; i < h + e; ++i) dot += (*entry.query)[i] * entry.key[i];
        weights.push_back(std::exp(dot / std::sqrt(static_cast<double>(e))));
        total += weights.back();
      }
      for (size_t n = 0; n < entries.size(); ++n) {
        for (size_t i = h; i < h + e; ++i) out[i] += weights[n] / total * entries[n].value[i];
      }
    }
    return out;
  }

  Row third(const Row& qkv, int which) const {
    return Row(qkv.begin() + which * s_.width, qkv.begin() + (which + 1) * s_.width);
  }

  // norm(x) of the last frame. heard == nullptr is the unconditional row.
  Row hidden(const Rows& bits, const Rows& style, const Heard* heard, int64_t first_frame) const {
    const int64_t frames = static_cast<int64_t>(bits.size());
    Rows x;
    for (int64_t t = 0; t < frames; ++t) {
      // What lies before bits[0] is out of every window, so any token will do there.
      x.push_back(t == 0 ? at("generator.start") : linear("generator.token", bits[static_cast<size_t>(t - 1)]));
      if (heard == nullptr) continue;
      for (int track = 0; track < 2; ++track) {
        const Row& table = at(track == 0 ? "generator.look_ahead_self.weight" : "generator.look_ahead_other.weight");
        for (size_t i = 0; i < x.back().size(); ++i) {
          x.back()[i] += table[static_cast<size_t>(heard->look_ahead[track] * s_.width) + i];
        }
      }
    }
    for (int layer = 0; layer < s_.depth; ++layer) {
      const std::string block = "generator.blocks." + std::to_string(layer) + ".";
      Rows prefix, projected;
      for (const Row& token : style)
        prefix.push_back(linear(block + "self_attention.qkv", norm(block + "self_norm", token)));
      for (const Row& row : x)
        projected.push_back(linear(block + "self_attention.qkv", norm(block + "self_norm", row)));
      Rows y = x;
      for (int64_t t = 0; t < frames; ++t) {
        Row& row = y[static_cast<size_t>(t)];
        const Row plain = third(projected[static_cast<size_t>(t)], 0), rotated = turned(plain, first_frame + t);
        std::vector<Entry> entries;
        for (const Row& qkv : prefix) entries.push_back({&plain, third(qkv, 1), third(qkv, 2)});
        for (int64_t j = std::max<int64_t>(0, t - s_.window_frames + 1); j <= t; ++j) {
          const Row& qkv = projected[static_cast<size_t>(j)];
          entries.push_back({&rotated, turned(third(qkv, 1), first_frame + j), third(qkv, 2)});
        }
        add(&row, linear(block + "self_attention.output", attend(entries)));
        for (int track = 0; heard != nullptr && track < 2; ++track) {
          const std::string cross = block + (track == 0 ? "cross_self" : "cross_other");
          const Row query = turned(linear(cross + ".query", norm(cross + "_norm", row)), first_frame + t);
          entries.clear();
          for (int64_t j = std::max<int64_t>(0, t - s_.audio_window_frames + 1); j <= t + heard->look_ahead[track];
               ++j) {
            const Row& audio = heard->rows[track][static_cast<size_t>(j)];
            entries.push_back(
                {&query, turned(linear(cross + ".key", audio), first_frame + j), linear(cross + ".value", audio)});
          }
          add(&row, linear(cross + ".output", attend(entries)));
        }
        add(&row, linear(block + "feed_forward.down",
                         gelu(linear(block + "feed_forward.up", norm(block + "feed_forward_norm", row)))));
      }
      x = y;
    }
    return norm("generator.norm", x.back());
  }

  Row head(size_t level, const Row& h, const Row& bits_before) const {
    const std::string name = "generator.head." + std::to_string(level);
    Row u = linear(name + ".hidden", h);
    if (level > 0) add(&u, linear(name + ".bits", bits_before));
    return linear(name + ".output", gelu(u));
  }

  unils_stream_sizes s_;
  Row gains_;
  std::map<std::string, Row> tensors_;
};

}  // namespace unils
