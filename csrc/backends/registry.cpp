#include "backends/registry.h"

#include <array>
#include <cstdio>
#include <cstring>
#include <string>

#include "backends/cpu/cpu_backend.h"
#include "backends/graphs/graph_backend.h"
#include "backends/plugin.h"
#include "core/status.h"
#include "unils/backend.h"

namespace unils {
namespace {

struct Known {
  const char* name;
  const unils_backend* linked_in;  // null: in a plug-in, or cannot run family "stream" here
  const Plugin& (*plugin)();       // null: not in one
  const char* why_not;
};

constexpr Known kKnown[] = {{"tensorrt", &kTensorRtBackend, nullptr, ""},
                            {"cuda", nullptr, cuda_plugin, ""},
                            {"onnxruntime", &kOnnxRuntimeBackend, nullptr, ""},
                            {"cpu", &kCpuBackend, nullptr, ""}};
constexpr int32_t kCount = sizeof kKnown / sizeof kKnown[0];

void say(unils_sentence* sentence, const std::string& text) {
  std::snprintf(sentence->text, sizeof sentence->text, "%s", text.c_str());
}

struct Answer {
  const unils_backend* backend = nullptr;
  int32_t score = 0;  // 0: cannot run here, and `detail` says why
  unils_sentence detail = {};
  const char* plugin = nullptr;  // path, null where there is none
};

Answer ask(const Known& known) {
  Answer answer;
  answer.backend = known.linked_in;
  const char* why_not = known.why_not;
  if (known.plugin != nullptr) {
    const Plugin& plugin = known.plugin();
    answer.backend = plugin.backend;
    if (!plugin.path.empty()) answer.plugin = plugin.path.c_str();
    why_not = plugin.why_not.c_str();
  }
  if (answer.backend != nullptr) {
    answer.score = answer.backend->score(&answer.detail);
  } else {
    say(&answer.detail, why_not);
  }
  return answer;
}

// "this library knows cuda (its plug-in ... is not installed), ..., cpu (avx512) and auto"
std::string what_there_is() {
  std::string list;
  for (const Known& known : kKnown) {
    list += std::string(list.empty() ? "" : ", ") + known.name + " (" + ask(known).detail.text + ")";
  }
  return "this library knows " + list + " and auto";
}

unils_status resolve_best(const unils_backend** backend, unils_sentence* detail) {
  Answer best;
  std::string passed_over;  // plug-ins that somebody installed and that cannot run
  for (const Known& known : kKnown) {
    const Answer answer = ask(known);
    if (answer.score > best.score) best = answer;
    if (answer.score <= 0 && answer.plugin != nullptr) {
      passed_over += std::string("; not ") + known.name + ": " + answer.detail.text;
    }
  }
  if (best.backend == nullptr) {
    say(detail, "no backend can run here; " + what_there_is());
    return UNILS_ERROR_BACKEND;
  }
  *backend = best.backend;
  say(detail, best.detail.text + passed_over);
  return UNILS_OK;
}

}  // namespace

int32_t backend_count() { return kCount; }

BackendInfo backend_info(int32_t index) {
  static const std::array<Answer, kCount> kAnswers = [] {
    std::array<Answer, kCount> answers;
    for (size_t i = 0; i < kCount; ++i) answers[i] = ask(kKnown[i]);
    return answers;
  }();
  const Answer& answer = kAnswers[static_cast<size_t>(index)];
  return {kKnown[index].name, answer.detail.text, answer.score, answer.plugin};
}

}  // namespace unils

unils_status unils_backend_resolve(const char* name, const unils_backend** backend, unils_sentence* detail) {
  using namespace unils;
  if (name == nullptr || std::strcmp(name, "auto") == 0) return resolve_best(backend, detail);
  for (const Known& known : kKnown) {
    if (std::strcmp(name, known.name) != 0) continue;
    const Answer answer = ask(known);
    if (answer.score > 0) {
      *backend = answer.backend;
      *detail = answer.detail;
      return UNILS_OK;
    }
    say(detail, std::string("backend ") + name + " cannot run here: " + answer.detail.text + "; " + what_there_is());
    return UNILS_ERROR_BACKEND;
  }
  say(detail, "there is no backend " + printable(name) + "; " + what_there_is());
  return UNILS_ERROR_BACKEND;
}
