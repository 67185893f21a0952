// The backends that this library knows, best first, whether or not they can run here.
#pragma once
#include <cstdint>

namespace unils {

struct BackendInfo {
  const char* name;    // static
  const char* detail;  // static: what it would use, or why it cannot run
  int32_t score;       // 0: cannot run here
  const char* plugin;  // static: path of the plug-in that holds it, null where there is none
};

int32_t backend_count();
BackendInfo backend_info(int32_t index);  // 0 <= index < backend_count()

}  // namespace unils
