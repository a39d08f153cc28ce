// A Hugging Face model folder opened for reading: configuration and every tensor the architecture
// needs, found in model.safetensors or in the shards of model.safetensors.index.json, with names,
// shapes and types checked. Owned by the loader for as long as it reads; constant, any thread.
//
// Invariants:
// 1. tensors() holds exactly the names of ModelTensors(config()), with those shapes, in f32, bf16
//    or f16; a linear layer's matrix may be in FP8 and then stands beside its scales, ScalesName,
//    which have passed CheckBlockScales. (A file may besides hold rotary_emb.inv_freq, which is
//    derived, the layers config().predict_layers counts and, for tied models, an lm_head.weight
//    with the embedding's very bytes; all are left out.)
// 2. No file outside the folder's own directory entries is opened.
#ifndef REPRISE_WORKER_MODEL_MODEL_FOLDER_H_
#define REPRISE_WORKER_MODEL_MODEL_FOLDER_H_

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "common/status.h"
#include "worker/model/model_config.h"
#include "worker/model/safetensors.h"

namespace reprise::worker {

class ModelFolder {
 public:
  // Errors name the file, the tensor and the reason.
  static StatusOr<ModelFolder> Open(const std::string& dir);

  const std::string& dir() const { return dir_; }
  const ModelConfig& config() const { return config_; }
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const TensorView& tensor(const std::string& name) const { return tensors_.at(name); }
  const std::deque<SafetensorsFile>& files() const { return files_; }

  // ABORTED when a file changed since it was opened: ask after the last read.
  Status CheckUnchanged() const;

 private:
  ModelFolder() = default;
  Status OpenSingle(const std::string& path);
  Status OpenShards(const std::string& index_path);
  Status KeepWhatIsNeeded();
  Status Keep(const TensorSpec& spec, std::map<std::string, TensorView>* needed) const;
  Status KeepScales(const std::string& name, const TensorView& matrix,
                    std::map<std::string, TensorView>* needed) const;
  bool IsLeftOut(absl::string_view name) const;

  std::string dir_;
  ModelConfig config_;
  std::deque<SafetensorsFile> files_;  // a deque: no file moves when the next is opened
  std::map<std::string, TensorView> tensors_;
};

// Of the scales of an FP8 matrix.
std::string ScalesName(const std::string& matrix);

// The "weight_map" of an index: tensor name to shard, a plain file name inside the folder.
// INVALID_ARGUMENT for anything else, RESOURCE_EXHAUSTED over the limits.
StatusOr<std::map<std::string, std::string>> ParseShardIndex(absl::string_view json);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_MODEL_FOLDER_H_
