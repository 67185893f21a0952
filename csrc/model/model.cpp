#include "model/model.h"

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

}  // namespace

Model::~Model() {
  if (backend_model_ != nullptr) backend_->model_free(backend_model_);
}

int64_t Model::weight_bytes() const { return backend_->weight_bytes(backend_model_); }

Status Model::load(const char* bundle_dir, const char* backend, int threads, std::shared_ptr<const Model>* model) {
  try {
    return load_or_throw(bundle_dir, backend, threads, model);
  } catch (const std::bad_alloc&) {
    return Status(UNILS_ERROR_OUT_OF_MEMORY, "no memory");  // short enough not to allocate
  } catch (const std::exception& failure) {
    return error(UNILS_ERROR_INTERNAL, "the model could not be loaded: %s", failure.what());
  }
}

Status Model::load_or_throw(const char* bundle_dir, const char* backend, int threads,
                            std::shared_ptr<const Model>* model) {
  if (bundle_dir == nullptr || *bundle_dir == '\0') {
    return error(UNILS_ERROR_INVALID_ARGUMENT, "no bundle was named; give the path of a folder with model.json");
  }
  if (threads < 1) return error(UNILS_ERROR_INVALID_ARGUMENT, "threads is %d; it must be at least 1", threads);

  std::shared_ptr<Model> loading(new Model());
  unils_sentence sentence = {};
  const unils_status resolved = unils_backend_resolve(backend, &loading->backend_, &sentence);
  if (resolved != UNILS_OK) return Status(resolved, sentence.text);
  loading->backend_detail_ = sentence.text;

  const std::string folder = std::string(bundle_dir) + "/";
  std::vector<char> file;
  UNILS_RETURN_IF_ERROR(read_file(folder + "model.json", 2, kMaxJsonBytes, &file));
  loading->json_.assign(file.begin(), file.end());
  UNILS_RETURN_IF_ERROR(Config::parse(loading->json_, &loading->config_));
  const Config& config = loading->config_;

  const std::vector<TensorShape> expected = expected_tensors(config.sizes);
  for (const TensorShape& tensor : expected) loading->parameters_ += tensor.count();
  const int64_t value_bytes = loading->parameters_ * static_cast<int64_t>(sizeof(float));
  if (value_bytes > kMaxWeightBytes) {
    return error(UNILS_ERROR_BUNDLE, "model.json describes a model of %lld bytes; at most %lld are supported",
                 static_cast<long long>(value_bytes), static_cast<long long>(kMaxWeightBytes));
  }
  UNILS_RETURN_IF_ERROR(read_file(folder + config.weights_file, 8, value_bytes + kMaxSafetensorsHeader + 8, &file));
  const std::array<uint8_t, 32> digest = sha256(file.data(), file.size());
  if (sha256_text(digest) != config.weights_sha256) {
    return error(UNILS_ERROR_BUNDLE,
                 "%s is not the file that model.json describes (its SHA-256 differs); copy the bundle again",
                 printable(config.weights_file).c_str());
  }
  for (size_t i = 0; i < 8; ++i) loading->fingerprint_ = loading->fingerprint_ << 8 | digest[i];
  Weights weights;
  UNILS_RETURN_IF_ERROR(Weights::read(file, expected, &weights));

  const unils_model_spec spec = {&config.sizes, config.gains.data(), weights.tensors().data(),
                                 static_cast<int32_t>(weights.tensors().size()), threads};
  const unils_status created = loading->backend_->model_create(&spec, &loading->backend_model_, &sentence);
  if (created != UNILS_OK) return Status(created, sentence.text);
  *model = std::move(loading);
  return Status();
}

}  // namespace unils
