// Looks a model folder over before anything is started on it: configuration, every shard's header,
// names, shapes and types of all tensors, presence of the tokenizer, and on request every value.
// One thread per call; links no kernel.
#ifndef REPRISE_WORKER_MODEL_CHECK_MODEL_H_
#define REPRISE_WORKER_MODEL_CHECK_MODEL_H_

#include <cstdint>
#include <map>
#include <string>

#include "common/status.h"
#include "worker/model/model_config.h"

namespace reprise::worker {

struct CheckModelOptions {
  bool scan_values = false;  // reads all weights and refuses NaN and infinity
};

struct ModelReport {
  std::string dir;
  ModelConfig config;
  int64_t parameters = 0;
  int64_t tensors = 0;
  int64_t files = 0;          // of weights
  uint64_t weight_bytes = 0;  // in the files
  std::map<std::string, int64_t> tensors_by_type;
  int64_t kv_bytes_per_token = 0;  // all layers, elements of two bytes
  bool values_scanned = false;

  std::string ToString() const;  // several lines for a terminal
};

// The first fault found, naming file, tensor and reason.
StatusOr<ModelReport> CheckModel(const std::string& dir, const CheckModelOptions& options = {});

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_CHECK_MODEL_H_
