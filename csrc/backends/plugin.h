// A backend in a shared library of its own: where it is looked for, and what came of it.
#pragma once
#include <string>

#include "core/status.h"
#include "unils/backend.h"

namespace unils {

struct Plugin {
  const unils_backend* backend = nullptr;  // null: not loaded, and `why_not` says why
  std::string path;                        // of the file, whether or not it could be loaded; empty when there is none
  std::string why_not;
};

// The plug-in of backend `cuda`, looked for once, when it is first asked about: the file that UNILS_CUDA_PLUGIN names if
// it is set, else libunils_cuda.so beside this library or in the folder that the host has named. Never unloaded.
const Plugin& cuda_plugin();

// Names the folder. An error when the plug-in was looked for already.
Status name_plugin_folder(const std::string& folder);

// Loads the plug-in of backend `name` from a file.
Plugin load_plugin(const char* name, const std::string& path);

}  // namespace unils
