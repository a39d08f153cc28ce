// Writes model folders with random weights of plausible scale, for benchmarks and tests that need a
// shape and no training. The bytes are a function of configuration, type and seed alone, on every
// machine and for any number of threads. Memory stays bounded whatever the model's size.
#ifndef REPRISE_WORKER_MODEL_MAKE_MODEL_H_
#define REPRISE_WORKER_MODEL_MAKE_MODEL_H_

#include <cstdint>
#include <functional>
#include <string>

#include "common/status.h"
#include "worker/model/model_config.h"

namespace reprise::worker {

struct MakeModelOptions {
  std::string preset = "tiny";
  uint64_t seed = 0;
  std::string dir;             // created; must not exist or be empty
  std::string dtype = "bf16";  // bf16, f16, f32
  int shards = 1;              // more than one: with an index
  int threads = 0;             // 0: as many as the machine has
};

// Called now and then, by the caller's thread, with weight bytes written and the total.
using MakeModelProgress = std::function<void(uint64_t bytes_done, uint64_t bytes_total)>;

// Writes config.json, generation_config.json, tokenizer.json and the weights; config.json last, so
// that an interrupted folder is not taken for a model.
// Errors: NOT_FOUND (preset), INVALID_ARGUMENT (dtype, shards), ALREADY_EXISTS (folder not empty),
// RESOURCE_EXHAUSTED (too little room, seen before anything is written, or a write that failed),
// each naming the value.
Status MakeModel(const MakeModelOptions& options, const MakeModelProgress& progress = nullptr);

// The same for a configuration of the caller's; `options.preset` is not looked at.
Status MakeModelOf(ModelConfig config, const MakeModelOptions& options,
                   const MakeModelProgress& progress = nullptr);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_MAKE_MODEL_H_
