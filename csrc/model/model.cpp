#include "model/model.h"

#include <cstring>
#include <exception>
#include <new>

#include "model/file.h"
#include "model/safetensors.h"
#include "model/sha256.h"
#include "model/weights.h"

namespace unils {
namespace {

constexpr int64_t kMaxJsonBytes = int64_t{1} << 20;
constexpr int64_t kMaxWeightBytes = int64_t{1} << 31;
constexpr int64_t kMaxGraphBytes = int64_t{1} << 34;

Status another_file(const BundleFile& file) {
  return error(UNILS_ERROR_BUNDLE,
               "%s is not the file that model.json describes (its SHA-256 differs); copy the bundle again",
               printable(file.name).c_str());
}

// Names of graphs, and where their files are.
class GraphList {
 public:
  GraphList() = default;
  GraphList(const std::string& folder, const std::vector<BundleFile>& files, const char* const* names) {
    for (const BundleFile& file : files) paths_.push_back(folder + file.name);
    for (const std::string& path : paths_) list_.push_back({*names++, path.c_str()});
  }
  GraphList(GraphList&&) = default;
  GraphList& operator=(GraphList&&) = default;

  const std::vector<unils_graph>& list() const { return list_; }

 private:
  std::vector<std::string> paths_;
  std::vector<unils_graph> list_;
};

uint64_t first_eight_bytes(const std::array<uint8_t, 32>& digest) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; ++i) value = value << 8 | digest[i];
  return value;
}

}  // namespace

Model::~Model() {
  if (backend_model_ != nullptr) backend_->model_free(backend_model_);
}

int64_t Model::weight_bytes() const {
  return graphs_ != nullptr ? graph_bytes_ : backend_->weight_bytes(backend_model_);
}

Status Model::device_put(const float* values, int64_t count, unils_device_array* array) const {
  if (backend_ == nullptr || backend_->device_put == nullptr) {
    return error(UNILS_ERROR_BACKEND,
                 "this model computes on the host (backend %s): its frames are on no device; load it on backend cuda",
                 backend_name());
  }
  unils_sentence why = {};
  const unils_status status = backend_->device_put(backend_model_, values, count, array, &why);
  return status == UNILS_OK ? Status() : Status(status, why.text);
}

void Model::device_free(void* data) const {
  if (data != nullptr && backend_ != nullptr && backend_->device_free != nullptr) {
    backend_->device_free(backend_model_, data);
  }
}

Status Model::load(const char* bundle_dir, const char* backend, int threads, std::shared_ptr<const Model>* model,
                   const unils_graph_runner* runner, unils_precision precision) {
  try {
    return load_or_throw(bundle_dir, backend, threads, runner, precision, model);
  } catch (const std::bad_alloc&) {
    return Status(UNILS_ERROR_OUT_OF_MEMORY, "no memory");  // short enough not to allocate
  } catch (const std::exception& failure) {
    return error(UNILS_ERROR_INTERNAL, "the model could not be loaded: %s", failure.what());
  }
}

Status Model::load_or_throw(const char* bundle_dir, const char* backend, int threads, const unils_graph_runner* runner,
                            unils_precision precision, std::shared_ptr<const Model>* model) {
  if (bundle_dir == nullptr || *bundle_dir == '\0') {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "no bundle was named; give the path of a folder with model.json");
  }
  if (threads < 1) return error(UNILS_ERROR_INVALID_ARGUMENT, "threads is %d; it must be at least 1", threads);

  std::shared_ptr<Model> loading(new Model());
  loading->threads_ = threads;
  const std::string folder = std::string(bundle_dir) + "/";
  std::vector<char> file;
  UNILS_RETURN_IF_ERROR(read_file(folder + "model.json", 2, kMaxJsonBytes, &file));
  loading->json_.assign(file.begin(), file.end());
  UNILS_RETURN_IF_ERROR(Config::parse(loading->json_, &loading->config_));
  if (loading->config_.family == "published") {
    if (precision != UNILS_FP32) {
      return Status(UNILS_ERROR_INVALID_ARGUMENT,
                    "the precision of family published is that of its graphs: import or compile them in another one");
    }
    UNILS_RETURN_IF_ERROR(loading->load_published(folder, backend, threads, runner));
  } else {
    unils_sentence sentence = {};
    const unils_status resolved = unils_backend_resolve(backend, &loading->backend_, &sentence);
    if (resolved != UNILS_OK) return Status(resolved, sentence.text);
    loading->backend_detail_ = sentence.text;
    UNILS_RETURN_IF_ERROR(loading->load_stream(folder, threads, runner, precision));
  }
  *model = std::move(loading);
  return Status();
}

Status Model::read_weights(const std::string& folder, const std::vector<TensorShape>& expected, Sha256* fingerprint,
                           Weights* weights) {
  int64_t values = 0;
  for (const TensorShape& tensor : expected) values += tensor.count();
  const int64_t value_bytes = values * static_cast<int64_t>(sizeof(float));
  if (value_bytes > kMaxWeightBytes) {
    return error(UNILS_ERROR_BUNDLE, "model.json describes a model of %lld bytes; at most %lld are supported",
                 static_cast<long long>(value_bytes), static_cast<long long>(kMaxWeightBytes));
  }
  std::vector<char> file;
  const std::string path = folder + config_.weights.name;
  UNILS_RETURN_IF_ERROR(read_file(path, 8, value_bytes + kMaxSafetensorsHeader + 8, &file));
  const std::array<uint8_t, 32> digest = sha256(file.data(), file.size());
  if (sha256_text(digest) != config_.weights.sha256) return another_file(config_.weights);
  fingerprint->add(digest.data(), digest.size());
  return Weights::read(file, expected, weights);
}

Status Model::check_graphs(const std::string& folder, Sha256* fingerprint) {
  const auto check = [&](const BundleFile& file) {
    std::array<uint8_t, 32> digest;
    int64_t bytes = 0;
    UNILS_RETURN_IF_ERROR(hash_file(folder + file.name, 1, kMaxGraphBytes, &digest, &bytes));
    if (sha256_text(digest) != file.sha256) return another_file(file);
    fingerprint->add(digest.data(), digest.size());
    graph_bytes_ += bytes;
    return Status();
  };
  for (const BundleFile& file : config_.graphs) UNILS_RETURN_IF_ERROR(check(file));
  for (const BundleFile& file : config_.graph_data) UNILS_RETURN_IF_ERROR(check(file));
  return Status();
}

Status Model::load_stream(const std::string& folder, int threads, const unils_graph_runner* runner,
                          unils_precision precision) {
  const std::vector<TensorShape> expected = expected_tensors(config_.sizes);
  for (const TensorShape& tensor : expected) parameters_ += tensor.count();
  Weights weights;
  Sha256 fingerprint;
  UNILS_RETURN_IF_ERROR(read_weights(folder, expected, &fingerprint, &weights));
  fingerprint_ = first_eight_bytes(fingerprint.digest());
  unils_model_spec spec = {};
  spec.sizes = &config_.sizes;
  const unils_features features = config_.features();
  spec.features = &features;
  spec.gains = config_.gains.data();
  spec.tensors = weights.tensors().data();
  spec.tensor_count = static_cast<int32_t>(weights.tensors().size());
  spec.threads = threads;
  spec.precision = precision;
  // The host's runner is of one backend; no other one reads the graphs.
  GraphList graphs;
  if (runner != nullptr) UNILS_RETURN_IF_ERROR(Graphs::check(*runner));
  if (runner != nullptr && std::strcmp(runner->name, backend_->name) == 0) {
    Sha256 of_graphs;  // a session goes on from its snapshot whoever runs the model, so they are no part of its print
    UNILS_RETURN_IF_ERROR(check_graphs(folder, &of_graphs));
    graphs = GraphList(folder, config_.graphs, Config::kStreamGraphs);
    spec.runner = runner;
    spec.graphs = graphs.list().data();
    spec.graph_count = static_cast<int32_t>(graphs.list().size());
  }
  unils_sentence sentence = {};
  const unils_status created = backend_->model_create(&spec, &backend_model_, &sentence);
  if (created != UNILS_OK) return Status(created, sentence.text);
  if (sentence.text[0] != '\0') backend_detail_ = sentence.text;
  return Status();
}

Status Model::load_published(const std::string& folder, const char* backend, int threads,
                             const unils_graph_runner* runner) {
  const bool any = backend == nullptr || std::strcmp(backend, "auto") == 0;
  if (runner == nullptr) {
    return Status(UNILS_ERROR_BACKEND,
                  "a bundle of family published is a set of graphs and needs a graph runner "
                  "(unils_model_options.graph_runner), which this program does not give");
  }
  UNILS_RETURN_IF_ERROR(Graphs::check(*runner));
  if (!any && std::strcmp(backend, runner->name) != 0) {
    return error(UNILS_ERROR_BACKEND, "a bundle of family published runs on %s, not on %s; ask for that or for auto",
                 runner->name, printable(backend).c_str());
  }
  Sha256 fingerprint;
  UNILS_RETURN_IF_ERROR(read_weights(folder, expected_tensors(config_.published), &fingerprint, &weights_));
  parameters_ = config_.parameters;
  UNILS_RETURN_IF_ERROR(check_graphs(folder, &fingerprint));
  fingerprint_ = first_eight_bytes(fingerprint.digest());
  const GraphList graphs(folder, config_.graphs, PublishedConfig::kGraphs);
  UNILS_RETURN_IF_ERROR(Graphs::load(*runner, graphs.list(), threads, &graphs_));
  backend_detail_ = graphs_->detail();
  return Status();
}

}  // namespace unils
