// Graphs: the graphs of one bundle, opened by the host's runner (unils_graph_runner). Immutable; shared like the model.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "unils/unils.h"

namespace unils {

class Graphs {
 public:
  // UNILS_ERROR_INVALID_ARGUMENT when it is of another version of this library, or not complete.
  static Status check(const unils_graph_runner& runner);
  // list: borrowed for the call. runner: checked.
  static Status load(const unils_graph_runner& runner, const std::vector<unils_graph>& list, int threads,
                     std::unique_ptr<Graphs>* graphs);
  ~Graphs() { runner_.unload(loaded_); }
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  const char* backend_name() const { return name_.c_str(); }
  const std::string& detail() const { return detail_; }
  // graph: by its name in the list.
  Status run(const char* graph, const unils_tensor_view* inputs, int input_count, const unils_tensor_view* outputs,
             int output_count) const;

  // Gives memory back where it came from; the graphs must still be there.
  struct Release {
    const Graphs* graphs = nullptr;
    void operator()(void* memory) const;
  };
  // For tensors that graphs alone read and write; nobody else may follow the address.
  using Memory = std::unique_ptr<void, Release>;
  Status allocate(size_t bytes, Memory* memory) const;

 private:
  Graphs(const unils_graph_runner& runner, void* loaded, std::string detail)
      : runner_(runner), name_(runner.name), detail_(std::move(detail)), loaded_(loaded) {}

  unils_graph_runner runner_;
  std::string name_, detail_;
  void* loaded_;
};

}  // namespace unils
