// Parses arbitrary text as config.json and, for one valid model, as generation_config.json; what is
// accepted must satisfy the invariants that the rest of the worker computes with.
#include <cstddef>
#include <cstdint>

#include "worker/model/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using reprise::worker::ModelConfig;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  ModelConfig model;
  model.vocab = 1000;
  const auto defaults = reprise::worker::ParseGenerationDefaults(text, model);
  if (defaults.ok()) {
    for (const int32_t id : defaults->eos_ids) {
      if (id < 0 || id >= model.vocab) __builtin_trap();
    }
  }
  const auto config = reprise::worker::ParseModelConfig(text);
  if (!config.ok()) return 0;
  if (config->heads % config->kv_heads != 0 ||
      config->rotary_dim() % (2 * config->rope_heads()) != 0)
    __builtin_trap();
  if (config->mixture && (config->mixture->per_token > config->mixture->experts ||
                          config->mixture->layers.size() != static_cast<size_t>(config->layers))) {
    __builtin_trap();
  }
  if (config->block_scales && (config->block_scales->rows < 1 || config->block_scales->cols < 1)) {
    __builtin_trap();
  }
  if (config->parameters() <= 0 || config->CanonicalText().empty()) __builtin_trap();
  return 0;
}
