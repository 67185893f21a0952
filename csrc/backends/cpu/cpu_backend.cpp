#include "backends/cpu/cpu_backend.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>

#include "backends/cpu/audio_encoder.h"
#include "backends/cpu/generator.h"
#include "backends/cpu/motion_decoder.h"
#include "backends/cpu/style_encoder.h"
#include "core/cpu.h"

namespace unils {
namespace {

struct CpuModel {
  CpuModel(const unils_model_spec& spec, const Kernels& model_kernels) : kernels(model_kernels), layout(*spec.sizes) {}

  const Kernels& kernels;
  StateLayout layout;
  int style_floats = 0;  // of style tokens
  int64_t step_floats = 0;
  AudioEncoder audio;
  Generator generator;
  MotionDecoder decoder;
  StyleEncoder style;
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

  size_t workspace_floats() const {
    const int step = std::max({audio.scratch_floats(), generator.scratch_floats(), decoder.scratch_floats()});
    return static_cast<size_t>(step) + static_cast<size_t>(style_floats) + style.scratch_floats();
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
  UNILS_RETURN_IF_ERROR(Arena::create(model->workspace_floats() * sizeof(float), &scratch));
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

size_t workspace_bytes(const unils_backend_model* model) {
  return round_up(model_of(model).workspace_floats() * sizeof(float), kCacheLine);
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
  for (int32_t i = 0; i < count; i += CausalStack::kMaxStreams) {
    cpu.audio.push_rows(cpu.kernels, cpu.layout, requests + i, std::min(CausalStack::kMaxStreams, count - i),
                        static_cast<float*>(workspace));
  }
  return UNILS_OK;
}

unils_status step(const unils_backend_model* model, const unils_step_request* requests, int32_t count, void* workspace,
                  unils_sentence*) {
  const CpuModel& cpu = model_of(model);
  auto* scratch = static_cast<float*>(workspace);
  for (int32_t i = 0; i < count; ++i) {
    const unils_step_request& request = requests[i];
    cpu.generator.step(cpu.kernels, cpu.layout, request, scratch);
    cpu.decoder.step(cpu.kernels, cpu.layout, request.state, request.frame,
                     arena_at<float>(request.state, cpu.layout.bits), scratch, request.motion);
  }
  return UNILS_OK;
}

}  // namespace

const unils_backend kCpuBackend = {UNILS_BACKEND_VERSION, "cpu", score,     model_create, model_free, workspace_bytes,
                                   weight_bytes,          reset, set_style, push_rows,    step};

}  // namespace unils
