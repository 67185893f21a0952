#include "backends/cpu/cpu_backend.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <new>

#include "backends/cpu/audio_encoder.h"
#include "backends/cpu/batch.h"
#include "backends/cpu/generator.h"
#include "backends/cpu/motion_decoder.h"
#include "backends/cpu/style_encoder.h"
#include "core/cpu.h"
#include "core/workers.h"

namespace unils {
namespace {

struct CpuWorkspace {
  Arena scratch;
};

struct CpuModel {
  CpuModel(const unils_model_spec& spec, const Kernels& model_kernels)
      : kernels(model_kernels), layout(*spec.sizes, *spec.features), workers(std::make_unique<Workers>(spec.threads)) {}

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
  void share(int count, int sessions, float* workspace, const Body& body) const {
    struct Call {
      const CpuModel& cpu;
      const Body& body;
      int count, parts;
      float* workspace;
    };
    const Call call = {*this, body, count, parts(sessions), workspace};
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
  if (spec.precision != UNILS_FP32) {
    return Status(UNILS_ERROR_BACKEND,
                  "backend cpu computes in float32 only; load the model with precision fp32, or on backend cuda");
  }
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

// What `make` returns as a status and, if it is not OK, a sentence.
template <typename Make>
unils_status answer(unils_sentence* why, const Make& make) {
  try {
    const Status status = make();
    if (!status.ok()) say(why, status.sentence().c_str());
    return status.code();
  } catch (const std::bad_alloc&) {
    say(why, "there is not enough memory");
    return UNILS_ERROR_OUT_OF_MEMORY;
  } catch (const std::exception& failure) {
    say(why, failure.what());
    return UNILS_ERROR_INTERNAL;
  }
}

unils_status model_create(const unils_model_spec* spec, unils_backend_model** model, unils_sentence* why) {
  return answer(why, [&] {
    std::unique_ptr<CpuModel> created;
    UNILS_RETURN_IF_ERROR(create(*spec, &created));
    *model = reinterpret_cast<unils_backend_model*>(created.release());
    return Status();
  });
}

void model_free(unils_backend_model* model) { delete reinterpret_cast<CpuModel*>(model); }

int64_t weight_bytes(const unils_backend_model* model) {
  return model_of(model).step_floats * static_cast<int64_t>(sizeof(float));
}

float* scratch_of(unils_backend_workspace* workspace) {
  return reinterpret_cast<CpuWorkspace*>(workspace)->scratch.at<float>(0);
}

unils_status states_create(const unils_backend_model* model, int32_t count, void** states, unils_sentence* why) {
  return answer(why, [&] {
    auto blocks = std::make_unique<Arena>();
    UNILS_RETURN_IF_ERROR(Arena::create(static_cast<size_t>(count) * model_of(model).layout.bytes, blocks.get()));
    *states = blocks->release();
    return Status();
  });
}

void states_free(const unils_backend_model*, void* states) { Arena::adopt(states); }

unils_status state_read(const unils_backend_model* model, const void* state, void* block, unils_sentence*) {
  std::memcpy(block, state, model_of(model).layout.bytes);
  return UNILS_OK;
}

unils_status state_write(const unils_backend_model* model, void* state, const void* block, unils_sentence*) {
  std::memcpy(state, block, model_of(model).layout.bytes);
  return UNILS_OK;
}

unils_status workspace_create(const unils_backend_model* model, int32_t sessions, unils_backend_workspace** workspace,
                              unils_sentence* why) {
  return answer(why, [&] {
    auto made = std::make_unique<CpuWorkspace>();
    UNILS_RETURN_IF_ERROR(Arena::create(model_of(model).workspace_floats(sessions) * sizeof(float), &made->scratch));
    *workspace = reinterpret_cast<unils_backend_workspace*>(made.release());
    return Status();
  });
}

void workspace_free(unils_backend_workspace* workspace) { delete reinterpret_cast<CpuWorkspace*>(workspace); }

int64_t workspace_bytes(const unils_backend_workspace* workspace) {
  return static_cast<int64_t>(reinterpret_cast<const CpuWorkspace*>(workspace)->scratch.bytes());
}

unils_status reset(const unils_backend_model* model, void* state, unils_sentence*) {
  const CpuModel& cpu = model_of(model);
  std::memset(state, 0, cpu.layout.bytes);
  cpu.layout.style.copy(cpu.null_style.data(), state);
  return UNILS_OK;
}

unils_status set_style(const unils_backend_model* model, void* state, unils_backend_workspace* workspace,
                       const float* motion, int64_t frames, unils_sentence*) {
  const CpuModel& cpu = model_of(model);
  float* tokens = scratch_of(workspace);
  float* scratch = tokens + cpu.style_floats;
  cpu.style.encode(cpu.kernels, motion, frames, scratch, tokens);
  cpu.generator.set_style_tokens(cpu.kernels, cpu.layout, state, tokens, scratch);
  return UNILS_OK;
}

unils_status run(const unils_backend_model* model, unils_backend_workspace* workspace, const unils_row_request* rows,
                 int32_t row_count, const unils_step_request* steps, int32_t step_count, unils_sentence*) {
  const CpuModel& cpu = model_of(model);
  float* memory = scratch_of(workspace);
  cpu.share(row_count, (row_count + 1) / 2, memory, [&](int begin, int end, float* scratch) {
    cpu.audio.push_rows(cpu.kernels, cpu.layout, rows + begin, end - begin, scratch);
  });
  cpu.share(step_count, step_count, memory, [&](int begin, int end, float* scratch) {
    cpu.generator.step(cpu.kernels, cpu.layout, steps + begin, end - begin, scratch);
    cpu.decoder.step(cpu.kernels, cpu.layout, steps + begin, end - begin, scratch);
  });
  return UNILS_OK;
}

}  // namespace

const unils_backend kCpuBackend = {UNILS_BACKEND_VERSION, "cpu",
                                   0,  // hears rows
                                   score, model_create, model_free, weight_bytes, states_create, states_free, state_read,
                                   state_write, workspace_create, workspace_free, workspace_bytes, reset, set_style, run,
                                   nullptr, nullptr};

}  // namespace unils
