// Where the plug-in of backend `cuda` is looked for, and what is said when it is not there or of no use. It is looked for
// once a process, so each case is a run of its own: test_plugin CASE FOLDER, where FOLDER holds builds of fake_plugin.cpp.
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "backends/plugin.h"
#include "backends/registry.h"
#include "check.h"
#include "unils/backend.h"

using namespace unils;

namespace {

struct Resolved {
  unils_status status;
  std::string name, detail;
};

Resolved resolve(const char* name) {
  const unils_backend* backend = nullptr;
  unils_sentence detail = {};
  const unils_status status = unils_backend_resolve(name, &backend, &detail);
  return {status, backend != nullptr ? backend->name : "", detail.text};
}

bool says(const std::string& text, const char* part) {
  if (text.find(part) != std::string::npos) return true;
  std::fprintf(stderr, "  \"%s\" does not say \"%s\"\n", text.c_str(), part);
  return false;
}

BackendInfo info_of(const char* name) {
  for (int32_t i = 0; i < backend_count(); ++i) {
    if (std::strcmp(backend_info(i).name, name) == 0) return backend_info(i);
  }
  return {nullptr, nullptr, 0, nullptr};
}

std::string plugin_in(const std::string& folder) { return folder + "/libunils_cuda.so"; }

void is_absent() {
  CHECK(resolve("cuda").status == UNILS_ERROR_BACKEND);
  CHECK(says(resolve("cuda").detail, "libunils_cuda.so is not installed; pip install unils-sdk-cuda13"));
  CHECK(resolve("auto").name == "cpu");
  CHECK(resolve("auto").detail.find("cuda") == std::string::npos);  // nobody who has only the CPU is told of cards
  CHECK(info_of("cuda").score == 0 && info_of("cuda").plugin == nullptr);
}

void is_named(const std::string& folder) {
  setenv("UNILS_CUDA_PLUGIN", plugin_in(folder + "/good").c_str(), 1);
  CHECK(resolve("cuda").status == UNILS_OK);
  CHECK(resolve("cuda").detail == "a card on the moon");
  CHECK(resolve("auto").name == "cuda" && resolve(nullptr).name == "cuda");  // it scores more than the CPU
  CHECK(resolve("cpu").name == "cpu");
  CHECK(info_of("cuda").score == 50 && info_of("cuda").plugin == plugin_in(folder + "/good"));
}

void is_in_the_folder_of_the_host(const std::string& folder) {
  CHECK(unils_plugin_folder(nullptr) == UNILS_ERROR_INVALID_ARGUMENT);
  CHECK(unils_plugin_folder((folder + "/nothing").c_str()) == UNILS_OK);
  CHECK(unils_plugin_folder((folder + "/good").c_str()) == UNILS_OK);
  std::vector<std::thread> threads;
  std::vector<Resolved> found(4);
  for (Resolved& one : found) threads.emplace_back([&one] { one = resolve("auto"); });
  for (std::thread& thread : threads) thread.join();
  for (const Resolved& one : found) CHECK(one.status == UNILS_OK && one.name == "cuda");
  CHECK(unils_plugin_folder((folder + "/good").c_str()) == UNILS_ERROR_STATE);
  CHECK(says(unils_last_error(), "before a model is loaded"));
}

void cannot_run(const std::string& folder) {
  setenv("UNILS_CUDA_PLUGIN", plugin_in(folder + "/unfit").c_str(), 1);
  CHECK(resolve("cuda").status == UNILS_ERROR_BACKEND);
  CHECK(says(resolve("cuda").detail, "backend cuda cannot run here: the moon is down; this library knows"));
  CHECK(resolve("auto").status == UNILS_OK && resolve("auto").name == "cpu");
  CHECK(says(resolve("auto").detail, "; not cuda: the moon is down"));
  CHECK(info_of("cuda").plugin == plugin_in(folder + "/unfit"));
}

void is_of_another_version(const std::string& folder) {
  setenv("UNILS_CUDA_PLUGIN", plugin_in(folder + "/old").c_str(), 1);
  CHECK(says(resolve("cuda").detail, "has version 1 of the backend interface and this library has 2; install"));
  CHECK(says(resolve("auto").detail, "; not cuda: UNILS_CUDA_PLUGIN is set: "));
  CHECK(resolve("auto").name == "cpu");
}

void is_no_plugin(const std::string& folder) {
  CHECK(says(load_plugin("cuda", plugin_in(folder + "/other")).why_not, "holds backend abacus, not cuda"));
  CHECK(says(load_plugin("cuda", plugin_in(folder + "/empty")).why_not, "has no unils_backend_plugin"));
  const std::string damaged = folder + "/damaged.so";
  std::ofstream(damaged) << "not a library";
  CHECK(says(load_plugin("cuda", damaged).why_not, "cannot be loaded: "));
  CHECK(load_plugin("cuda", damaged).backend == nullptr);
  // One that is named and is not there is not replaced by another one.
  setenv("UNILS_CUDA_PLUGIN", "/nowhere/libunils_cuda.so", 1);
  CHECK(unils_plugin_folder((folder + "/good").c_str()) == UNILS_OK);
  CHECK(says(resolve("cuda").detail, "UNILS_CUDA_PLUGIN is set: it cannot be loaded: /nowhere/libunils_cuda.so"));
}

// The real plug-in where there is no driver: it loads, and says so. Where there is one, it can say what it found.
void without_a_driver(const std::string& folder) {
  const Plugin plugin = load_plugin("cuda", plugin_in(folder));
  if (!CHECK(plugin.backend != nullptr)) {
    std::fprintf(stderr, "  %s\n", plugin.why_not.c_str());
    return;
  }
  unils_sentence detail = {};
  const int32_t score = plugin.backend->score(&detail);
  std::printf("score %d: %s\n", score, detail.text);
  CHECK(detail.text[0] != '\0');
  const bool has_card = std::ifstream("/dev/nvidia0").good();
  CHECK(has_card || score == 0);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  const std::string folder = argc > 2 ? argv[2] : ".";
  unsetenv("UNILS_CUDA_PLUGIN");
  if (name == "is_absent") is_absent();
  if (name == "is_named") is_named(folder);
  if (name == "is_in_the_folder_of_the_host") is_in_the_folder_of_the_host(folder);
  if (name == "cannot_run") cannot_run(folder);
  if (name == "is_of_another_version") is_of_another_version(folder);
  if (name == "is_no_plugin") is_no_plugin(folder);
  if (name == "without_a_driver") without_a_driver(folder);
  return check::result();  // a case that does not exist checks nothing, and fails
}
