#include "backends/plugin.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <mutex>

namespace unils {
namespace {

constexpr char kCudaFile[] = "libunils_cuda.so";
constexpr uint32_t kNewestVersionToAskFor = 64;

std::mutex mutex;
bool looked = false;
std::string host_folder;

std::string folder_of_this_library() {
  Dl_info info = {};
  if (dladdr(reinterpret_cast<const void*>(&cuda_plugin), &info) == 0 || info.dli_fname == nullptr) return "";
  const std::string file = info.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "." : file.substr(0, slash);
}

// "1", or "another" where it does not say.
std::string version_of(unils_backend_entry entry) {
  for (uint32_t version = 1; version <= kNewestVersionToAskFor; ++version) {
    if (entry(version) != nullptr) return std::to_string(version);
  }
  return "another";
}

Plugin look_for_cuda() {
  std::string named;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    looked = true;
    named = host_folder;
  }
  const char* file = std::getenv("UNILS_CUDA_PLUGIN");
  if (file != nullptr && *file != '\0') {
    Plugin plugin = load_plugin("cuda", file);
    if (plugin.backend == nullptr) plugin.why_not = "UNILS_CUDA_PLUGIN is set: " + plugin.why_not;
    return plugin;
  }
  Plugin broken;
  for (const std::string& folder : {folder_of_this_library(), named}) {
    const std::string path = folder + "/" + kCudaFile;
    if (folder.empty() || access(path.c_str(), F_OK) != 0) continue;
    Plugin plugin = load_plugin("cuda", path);
    if (plugin.backend != nullptr) return plugin;
    if (broken.path.empty()) {
      broken = plugin;
    } else {
      broken.why_not += "; " + plugin.why_not;
    }
  }
  if (!broken.path.empty()) return broken;
  return {nullptr, "",
          std::string("its plug-in ") + kCudaFile +
              " is not installed; pip install unils-sdk-cuda13, or install unils-sdk from source where nvcc is"};
}

}  // namespace

Plugin load_plugin(const char* name, const std::string& path) {
  const auto failed = [&](const std::string& why) { return Plugin{nullptr, path, why}; };
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    return failed(std::string("it cannot be loaded: ") + (why != nullptr ? why : path.c_str()));
  }
  const auto entry = reinterpret_cast<unils_backend_entry>(dlsym(library, UNILS_BACKEND_ENTRY));
  std::string why_not;
  if (entry == nullptr) {
    why_not = path + " is no plug-in of this library: it has no " + UNILS_BACKEND_ENTRY;
  } else if (const unils_backend* backend = entry(UNILS_BACKEND_VERSION); backend == nullptr) {
    why_not = path + " has version " + version_of(entry) + " of the backend interface and this library has " +
              std::to_string(UNILS_BACKEND_VERSION) + "; install both of the same version of unils-sdk";
  } else if (backend->version != UNILS_BACKEND_VERSION || std::strcmp(backend->name, name) != 0) {
    why_not = path + " holds backend " + printable(backend->name) + ", not " + name;
  } else {
    return {backend, path, ""};
  }
  dlclose(library);
  return failed(why_not);
}

const Plugin& cuda_plugin() {
  static const Plugin kPlugin = look_for_cuda();
  return kPlugin;
}

Status name_plugin_folder(const std::string& folder) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (looked) {
    return error(UNILS_ERROR_STATE, "plug-ins were looked for already; name their folder before a model is loaded");
  }
  host_folder = folder;
  return Status();
}

}  // namespace unils
