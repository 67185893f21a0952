#include "model/graphs.h"

#include "model/published_config.h"

namespace unils {
namespace {

// A runner may fill its sentence to the last byte, or not at all.
std::string text_of(unils_sentence* sentence, const char* otherwise) {
  sentence->text[sizeof sentence->text - 1] = '\0';
  return sentence->text[0] != '\0' ? sentence->text : otherwise;
}

unils_status failure(unils_status status) {
  return status >= UNILS_ERROR_INVALID_ARGUMENT && status <= UNILS_ERROR_INTERNAL ? status : UNILS_ERROR_BACKEND;
}

}  // namespace

Status Graphs::load(const unils_graph_runner& runner, const std::vector<std::string>& paths, int threads,
                    std::unique_ptr<Graphs>* graphs) {
  if (runner.name == nullptr || runner.load == nullptr || runner.run == nullptr || runner.unload == nullptr) {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "the graph runner is not complete: it needs name, load, run and unload");
  }
  std::vector<unils_graph> list;
  for (size_t i = 0; i < paths.size(); ++i) list.push_back({PublishedConfig::kGraphs[i], paths[i].c_str()});
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

}  // namespace unils
