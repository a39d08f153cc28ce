// A small model of fixed weights with the parts a given one has: what numerics classes are the
// answers of. Pure; any thread.
#ifndef REPRISE_WORKER_MODEL_KNOWN_MODEL_H_
#define REPRISE_WORKER_MODEL_KNOWN_MODEL_H_

#include "kernels/ops.h"
#include "worker/model/model_config.h"
#include "worker/model/weights.h"

namespace reprise::worker {

enum class HeadDims : uint8_t {
  kSmall,
  kOfModel,  // where kernels differ by them
};

// With a vocabulary of 96 and a context of 128.
ModelConfig KnownModelConfig(const ModelConfig& model, HeadDims dims);

// Made of exact integers: uniform in (-1, 1) times a power of two.
ModelWeights KnownModelWeights(const ModelConfig& known, kernels::DType dtype);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_KNOWN_MODEL_H_
