#include "backends/cpu/cpu_backend.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>

#include "backends/cpu/audio_encoder.h"
#include "backends/cpu/batch.h"
#include "backends/cpu/generator.h"
#include "backends/cpu/motion_decoder.h"
#include "backends/cpu/style_encoder.h"
#include "backends/cpu/workers.h"
#include "core/cpu.h"

namespace unils {
namespace {

struct CpuModel {
  CpuModel(const unils_model_spec& spec, const Kernels& model_kernels)
      : kernels(model_kernels), layout(*spec.sizes), workers(std::make_unique<Workers>(spec.threads)) {}

  const Kernels& kernels;
  StateLayout layout;
  int style_floats = 0;  // of style tokens
  int64_t step_floats = 0;
  AudioEncoder audio;
  Generator generator;
  MotionDecoder decoder;
  StyleEncoder style;
  std::unique_ptr<Workers> workers;  // the model is const, they are not
  Arena weights;
  Arena null_style;  // a state whose style prefix is the one of "no style"

  // Everything that steps read comes first.
  size_t pack(const unils_model_spec& spec, float* block) {
    Packer packer(spec, kernels, block);
    audio = AudioEncoder(&packer, *spec.sizes);
    generator = Generator(&packer, *spec.sizes);
    decoder = MotionDecoder(&packer, *spec.sizes, spec.gains);
    step_floats = static_cast<int64_t>(packer.floats());
    style = StyleEncoder(&packer, *spec.sizes, spec.gains);
    return packer.floats();
  }

  // Threads that it pays to share a call of `count` sessions among.
  int lanes(int count) const { return std::clamp(count / kMinBatch, 1, workers->lanes()); }
  // Parts that such a call is cut into, as even as can be.
  int parts(int count) const {
    const int at_once = lanes(count) * kMaxBatch;
    return std::min(count, lanes(count) * ((count + at_once - 1) / at_once));
  }
  // Of one thread's scratch, for a part of `count` sessions.
  size_t lane_floats(int count) const {
    const int floats = std::max(
        {audio.scratch_floats(2 * count), generator.scratch_floats(count), decoder.scratch_floats(count)});
    return round_up(static_cast<size_t>(floats), kCacheLine / sizeof(float));
  }
  size_t workspace_floats(int sessions) const {
    const size_t styled = static_cast<size_t>(style_floats) +
                          std::max(style.scratch_floats(), static_cast<size_t>(generator.scratch_floats(1)));
    const auto others = static_cast<size_t>(lanes(sessions) - 1);
    return std::max(styled, others * lane_floats(kMaxBatch) + lane_floats(std::min(sessions, kMaxBatch)));
  }

  // body(begin, end, scratch) for parts of `count` requests of `sessions` sessions.
  template <typename Body>
  void run(int count, int sessions, void* workspace, const Body& body) const {
    struct Call {
      const CpuModel& cpu;
      const Body& body;
      int count, parts;
      float* workspace;
    };
    const Call call = {*this, body, count, parts(sessions), static_cast<float*>(workspace)};
    const auto run_part = [](const void* of, int part, int lane) {
      const Call& c = *static_cast<const Call*>(of);
      const auto at = [&c](int n) { return static_cast<int>(int64_t{c.count} * n / c.parts); };
      const size_t before = lane == 0 ? 0 : static_cast<size_t>(lane) * c.cpu.lane_floats(kMaxBatch);
      c.body(at(part), at(part + 1), c.workspace + before);
    };
    workers->run(run_part, &call, call.parts);
  }
};

const CpuModel& model_of(const unils_backend_model* model) { return *reinterpret_cast<const CpuModel*>(model); }

void say(unils_sentence* sentence, const char* text) {
  std::snprintf(sentence->text, sizeof sentence->text, "%s", text);
}

int32_t score(unils_sentence* detail) {
  CpuLevel level = CpuLevel::kRef;
  const Status chosen = choose_cpu_level(&level);
  say(detail, chosen.ok() ? cpu_level_name(level) : chosen.sentence().c_str());
  return chosen.ok() ? 10 : 0;
}

Status create(const unils_model_spec& spec, std::unique_ptr<CpuModel>* created) {
  CpuLevel level = CpuLevel::kRef;
  UNILS_RETURN_IF_ERROR(choose_cpu_level(&level));
  auto model = std::make_unique<CpuModel>(spec, *kernels_for(level));
  if (model->layout.bytes > StateLayout::kMaxBytes) {
    return error(UNILS_ERROR_BUNDLE, "a session of this model would hold %zu bytes; at most %zu are supported",
                 model->layout.bytes, StateLayout::kMaxBytes);
  }
  UNILS_RETURN_IF_ERROR(Arena::create(model->pack(spec, nullptr) * sizeof(float), &model->weights));
  model->pack(spec, model->weights.at<float>(0));
  model->style_floats = round_to_block(spec.sizes->style_tokens * spec.sizes->width);

  Arena scratch;
  UNILS_RETURN_IF_ERROR(Arena::create(model->workspace_floats(1) * sizeof(float), &scratch));
  UNILS_RETURN_IF_ERROR(Arena::create(model->layout.bytes, &model->null_style));
  model->generator.set_style_tokens(model->kernels, model->layout, model->null_style.data(),
                                    model->generator.null_style(), scratch.at<float>(0));
  *created = std::move(model);
  return Status();
}

unils_status model_create(const unils_model_spec* spec, unils_backend_model** model, unils_sentence* why) {
  try {
    std::unique_ptr<CpuModel> created;
    const Status status = create(*spec, &created);
    if (!status.ok()) say(why, status.sentence().c_str());
    *model = reinterpret_cast<unils_backend_model*>(created.release());
    return status.code();
  } catch (const std::bad_alloc&) {
    say(why, "there is not enough memory for the weights");
    return UNILS_ERROR_OUT_OF_MEMORY;
  } catch (const std::exception& failure) {
    say(why, failure.what());
    return UNILS_ERROR_INTERNAL;
  }
}

void model_free(unils_backend_model* model) { delete reinterpret_cast<CpuModel*>(model); }

size_t workspace_bytes(const unils_backend_model* model, int32_t sessions) {
  return round_up(model_of(model).workspace_floats(sessions) * sizeof(float), kCacheLine);
}

int64_t weight_bytes(const unils_backend_model* model) {
  return model_of(model).step_floats * static_cast<int64_t>(sizeof(float));
}

void reset(const unils_backend_model* model, void* state) {
  const CpuModel& cpu = model_of(model);
  cpu.layout.style.copy(cpu.null_style.data(), state);
}

unils_status set_style(const unils_backend_model* model, void* state, void* workspace, const float* motion,
                       int64_t frames, unils_sentence*) {
  const CpuModel& cpu = model_of(model);
  auto* tokens = static_cast<float*>(workspace);
  float* scratch = tokens + cpu.style_floats;
  cpu.style.encode(cpu.kernels, motion, frames, scratch, tokens);
  cpu.generator.set_style_tokens(cpu.kernels, cpu.layout, state, tokens, scratch);
  return UNILS_OK;
}

unils_status push_rows(const unils_backend_model* model, const unils_row_request* requests, int32_t count,
                       void* workspace, unils_sentence*) {
  const CpuModel& cpu = model_of(model);
  cpu.run(count, (count + 1) / 2, workspace, [&](int begin, int end, float* scratch) {
    cpu.audio.push_rows(cpu.kernels, cpu.layout, requests + begin, end - begin, scratch);
  });
  return UNILS_OK;
}

unils_status step(const unils_backend_model* model, const unils_step_request* requests, int32_t count, void* workspace,
                  unils_sentence*) {
  const CpuModel& cpu = model_of(model);
  cpu.run(count, count, workspace, [&](int begin, int end, float* scratch) {
    cpu.generator.step(cpu.kernels, cpu.layout, requests + begin, end - begin, scratch);
    cpu.decoder.step(cpu.kernels, cpu.layout, requests + begin, end - begin, scratch);
  });
  return UNILS_OK;
}

}  // namespace

const unils_backend kCpuBackend = {UNILS_BACKEND_VERSION, "cpu", score,     model_create, model_free, workspace_bytes,
                                   weight_bytes,          reset, set_style, push_rows,    step};

}  // namespace unils
