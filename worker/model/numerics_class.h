// The numerics class of a CPU model: a digest of what its arithmetic gives on known inputs, run at
// start, so that another compiler, a changed kernel or a faulty CPU gets another class and its KV
// blocks never mix with ours. Pure; any thread.
#ifndef REPRISE_WORKER_MODEL_NUMERICS_CLASS_H_
#define REPRISE_WORKER_MODEL_NUMERICS_CLASS_H_

#include "common/sha256.h"
#include "kernels/ops.h"
#include "worker/model/model_config.h"

namespace reprise::worker {

struct NumericsChoices {
  kernels::Isa isa = kernels::Isa::kScalar;  // computes the answers; must not show in the digest
  kernels::DType weights = kernels::DType::kBF16;
  kernels::DType kv = kernels::DType::kBF16;
};

// Covers the kernels' known answers, a small model of fixed weights run in prompt and in step form
// (logits, KV rows, draws), the rotation frequencies of `config` and the type choices. Equal for
// every Isa.
Digest256 NumericsClass(const ModelConfig& config, const NumericsChoices& choices);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_NUMERICS_CLASS_H_
