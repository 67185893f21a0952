#include "c_api/last_error.h"

#include <cstdio>

namespace unils {
namespace {

thread_local char sentence[1024] = "";

}  // namespace

unils_status keep_error(const Status& status) noexcept {
  std::snprintf(sentence, sizeof sentence, "%s", status.sentence().c_str());
  return status.code();
}

const char* last_error() noexcept { return sentence; }

}  // namespace unils
