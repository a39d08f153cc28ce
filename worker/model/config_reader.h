// Reading numbers of a config.json with their ranges: the errors name the key, the range and the
// value found. Pure functions; any thread.
#ifndef REPRISE_WORKER_MODEL_CONFIG_READER_H_
#define REPRISE_WORKER_MODEL_CONFIG_READER_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "common/json.h"
#include "common/status.h"
#include "worker/model/model_config.h"

namespace reprise::worker {

struct IntRange {
  int64_t min;
  int64_t max;
};
// Writes *value, which holds the fallback.
Status ReadInt(const JsonValue& object, absl::string_view key, IntRange range, int64_t* value);

struct NumberRange {
  double min;
  double max;
};
Status ReadNumber(const JsonValue& object, absl::string_view key, NumberRange range, double* value);

// Bits, not digits, for texts that are hashed: equal texts mean equal values, whatever a printer
// does.
std::string Exact(double value);

// UNIMPLEMENTED.
Status Unsupported(absl::string_view key, absl::string_view found, absl::string_view supported);

// What a family has beside Llama's parts (model_family.cc): latent attention, experts, norms.
// `config` holds what all families share.
Status ReadFamilyParts(const JsonValue& object, ModelConfig* config);
// How weights are stored: FP8 by blocks, or as they are (model_quantization.cc).
Status ReadQuantization(const JsonValue& object, ModelConfig* config);
// Their part of ModelConfig::CanonicalText; empty for Llama.
std::string FamilyText(const ModelConfig& config);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_CONFIG_READER_H_
