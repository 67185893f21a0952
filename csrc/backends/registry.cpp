#include "backends/registry.h"

#include <array>
#include <cstdio>
#include <cstring>
#include <string>

#include "backends/cpu/cpu_backend.h"
#include "core/status.h"
#include "unils/backend.h"

namespace unils {
namespace {

struct Known {
  const char* name;
  const unils_backend* backend;  // null: cannot run family "stream" here
  const char* why_not;
};

constexpr const char* kNotBuilt = "not built into this library";
constexpr Known kBestFirst[] = {{"tensorrt", nullptr, kNotBuilt},
                                {"cuda", nullptr, kNotBuilt},
                                {"onnxruntime", nullptr, "runs bundles of family published only, through the host"},
                                {"cpu", &kCpuBackend, ""}};
constexpr int32_t kCount = sizeof kBestFirst / sizeof kBestFirst[0];

void say(unils_sentence* sentence, const std::string& text) {
  std::snprintf(sentence->text, sizeof sentence->text, "%s", text.c_str());
}

int32_t score_of(const Known& known, unils_sentence* detail) {
  if (known.backend != nullptr) return known.backend->score(detail);
  say(detail, known.why_not);
  return 0;
}

// "this library knows cuda (not built into this library), ..., cpu (avx512)"
std::string what_there_is() {
  std::string list;
  for (const Known& known : kBestFirst) {
    unils_sentence detail = {};
    score_of(known, &detail);
    list += std::string(list.empty() ? "" : ", ") + known.name + " (" + detail.text + ")";
  }
  return "this library knows " + list + " and auto";
}

}  // namespace

int32_t backend_count() { return kCount; }

BackendInfo backend_info(int32_t index) {
  struct Answer {
    unils_sentence detail = {};
    int32_t score = 0;
  };
  static const std::array<Answer, kCount> kAnswers = [] {
    std::array<Answer, kCount> answers;
    for (size_t i = 0; i < kCount; ++i) answers[i].score = score_of(kBestFirst[i], &answers[i].detail);
    return answers;
  }();
  const Answer& answer = kAnswers[static_cast<size_t>(index)];
  return {kBestFirst[index].name, answer.detail.text, answer.score};
}

}  // namespace unils

unils_status unils_backend_resolve(const char* name, const unils_backend** backend, unils_sentence* detail) {
  using namespace unils;
  const bool any = name == nullptr || std::strcmp(name, "auto") == 0;
  for (const Known& known : kBestFirst) {
    if (!any && std::strcmp(name, known.name) != 0) continue;
    if (score_of(known, detail) > 0) {
      *backend = known.backend;
      return UNILS_OK;
    }
    if (!any) {
      say(detail, std::string("backend ") + name + " cannot run here: " + detail->text + "; " + what_there_is());
      return UNILS_ERROR_BACKEND;
    }
  }
  say(detail, any ? "no backend can run here; " + what_there_is()
                  : "there is no backend " + printable(name) + "; " + what_there_is());
  return UNILS_ERROR_BACKEND;
}
