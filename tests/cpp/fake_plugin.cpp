// A plug-in for test_plugin.cpp: of the name, version and score that its build says. It can be found, not run.
#include <cstdio>

#include "unils/backend.h"

namespace {

int32_t score(unils_sentence* detail) {
  std::snprintf(detail->text, sizeof detail->text, "%s", FAKE_SCORE > 0 ? "a card on the moon" : "the moon is down");
  return FAKE_SCORE;
}

constexpr unils_backend table() {
  unils_backend backend = {};
  backend.version = FAKE_VERSION;
  backend.name = FAKE_NAME;
  backend.score = score;
  return backend;
}
constexpr unils_backend kBackend = table();

}  // namespace

extern "C" [[gnu::visibility("default")]] const unils_backend* unils_backend_plugin(uint32_t version) {
  return version == FAKE_VERSION ? &kBackend : nullptr;
}
