// Model: a bundle, read, checked and handed to a backend. Immutable; shared by any number of sessions and threads.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "core/status.h"
#include "model/config.h"
#include "model/graphs.h"
#include "model/sha256.h"
#include "model/weights.h"
#include "unils/backend.h"

namespace unils {

class Model {
 public:
  // bundle_dir: a folder with model.json and the files it names (UTF-8). backend: NULL or "auto", "cpu", ...; a name
  // fails loudly. threads >= 1 is an upper bound for one call; the cpu backend keeps so many and shares the steps of
  // several sessions among them. runner: opens graphs, for family "published" and for the backend of family "stream"
  // that has its name; may be NULL.
  // Nothing in the bundle is trusted: UNILS_ERROR_IO when a file cannot be read, UNILS_ERROR_BUNDLE when it is not what
  // it says, UNILS_ERROR_BACKEND, UNILS_ERROR_OUT_OF_MEMORY.
  static Status load(const char* bundle_dir, const char* backend, int threads, std::shared_ptr<const Model>* model,
                     const unils_graph_runner* runner = nullptr, unils_precision precision = UNILS_FP32);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const Config& config() const { return config_; }
  const std::string& json() const { return json_; }  // the whole model.json
  int64_t parameters() const { return parameters_; }
  int threads() const { return threads_; }
  int64_t weight_bytes() const;  // what one step reads
  // First 8 bytes of the SHA-256 of the weights, in family "published" of weights and graphs: tells whose state a
  // snapshot is.
  uint64_t fingerprint() const { return fingerprint_; }

  const char* backend_name() const { return graphs_ != nullptr ? graphs_->backend_name() : backend_->name; }
  const std::string& backend_detail() const { return backend_detail_; }  // "avx512", or why "auto" fell back

  // A copy of values on the device that the model computes on. UNILS_ERROR_BACKEND where that is the host.
  Status device_put(const float* values, int64_t count, unils_device_array* array) const;
  void device_free(void* data) const;

  // Family "stream".
  const unils_backend& backend() const { return *backend_; }
  const unils_backend_model* backend_model() const { return backend_model_; }
  // Family "published".
  const Graphs& graphs() const { return *graphs_; }
  const Weights& weights() const { return weights_; }

 private:
  Model() = default;
  static Status load_or_throw(const char* bundle_dir, const char* backend, int threads,
                              const unils_graph_runner* runner, unils_precision precision,
                              std::shared_ptr<const Model>* model);
  Status load_stream(const std::string& folder, int threads, const unils_graph_runner* runner,
                     unils_precision precision);
  Status load_published(const std::string& folder, const char* backend, int threads, const unils_graph_runner* runner);
  // Their SHA-256, which join the fingerprint.
  Status check_graphs(const std::string& folder, Sha256* fingerprint);
  Status read_weights(const std::string& folder, const std::vector<TensorShape>& expected, Sha256* fingerprint,
                      Weights* weights);

  Config config_;
  std::string json_;
  int64_t parameters_ = 0;
  int threads_ = 1;
  uint64_t fingerprint_ = 0;
  const unils_backend* backend_ = nullptr;
  unils_backend_model* backend_model_ = nullptr;
  std::string backend_detail_;
  int64_t graph_bytes_ = 0;
  Weights weights_;
  std::unique_ptr<Graphs> graphs_;
};

}  // namespace unils
