// The shapes `reprise make-model` can write, by name, and config.json for any configuration. Pure;
// any thread.
#ifndef REPRISE_WORKER_MODEL_PRESETS_H_
#define REPRISE_WORKER_MODEL_PRESETS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"
#include "worker/model/model_config.h"

namespace reprise::worker {

std::vector<std::string> PresetNames();
// NOT_FOUND lists the names there are.
StatusOr<ModelConfig> PresetConfig(absl::string_view name);

// A config.json that ParseModelConfig reads back as `config`.
std::string ConfigJson(const ModelConfig& config);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_PRESETS_H_
