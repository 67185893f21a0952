#include "model/graphs.h"

#include <cstring>
#include <new>

namespace unils {
namespace {

constexpr auto kAlignment = std::align_val_t{256};

// A runner may fill its sentence to the last byte, or not at all.
std::string text_of(unils_sentence* sentence, const char* otherwise) {
  sentence->text[sizeof sentence->text - 1] = '\0';
  return sentence->text[0] != '\0' ? sentence->text : otherwise;
}

unils_status failure(unils_status status) {
  return status >= UNILS_ERROR_INVALID_ARGUMENT && status <= UNILS_ERROR_INTERNAL ? status : UNILS_ERROR_BACKEND;
}

}  // namespace

Status Graphs::check(const unils_graph_runner& runner) {
  if (runner.struct_size != sizeof runner) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "unils_graph_runner.struct_size is %zu; set it to %zu in this version",
                 runner.struct_size, sizeof runner);
  }
  if (runner.name == nullptr || runner.load == nullptr || runner.run == nullptr || runner.unload == nullptr) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "the graph runner is not complete: it needs name, load, run and unload");
  }
  if ((runner.allocate == nullptr) != (runner.release == nullptr)) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "the graph runner is not complete: allocate and release go together");
  }
  return Status();
}

Status Graphs::load(const unils_graph_runner& runner, const std::vector<unils_graph>& list, int threads,
                    std::unique_ptr<Graphs>* graphs) {
  void* loaded = nullptr;
  unils_sentence say = {};
  const unils_status status =
      runner.load(runner.context, list.data(), static_cast<int32_t>(list.size()), threads, &loaded, &say);
  if (status != UNILS_OK) return Status(failure(status), text_of(&say, "the graph runner could not open the graphs"));
  graphs->reset(new Graphs(runner, loaded, text_of(&say, "")));
  return Status();
}

Status Graphs::run(const char* graph, const unils_tensor_view* inputs, int input_count,
                   const unils_tensor_view* outputs, int output_count) const {
  unils_sentence why = {};
  const unils_status status = runner_.run(loaded_, graph, inputs, input_count, outputs, output_count, &why);
  if (status == UNILS_OK) return Status();
  return error(failure(status), "graph %s failed: %s", graph, text_of(&why, "the runner does not say why").c_str());
}

Status Graphs::allocate(size_t bytes, Memory* memory) const {
  void* made = nullptr;
  if (runner_.allocate != nullptr) {
    unils_sentence why = {};
    const unils_status status = runner_.allocate(loaded_, bytes, &made, &why);
    if (status != UNILS_OK) {
      return error(failure(status), "the graph runner has no memory for a session: %s",
                   text_of(&why, "it does not say why").c_str());
    }
  } else {
    made = ::operator new(bytes, kAlignment, std::nothrow);
    if (made == nullptr) return error(UNILS_ERROR_OUT_OF_MEMORY, "there is not enough memory for a session");
    std::memset(made, 0, bytes);  // pages are taken now, not in the first step
  }
  *memory = Memory(made, Release{this});
  return Status();
}

void Graphs::Release::operator()(void* memory) const {
  if (graphs->runner_.release != nullptr) {
    graphs->runner_.release(graphs->loaded_, memory);
  } else {
    ::operator delete(memory, kAlignment);
  }
}

}  // namespace unils
