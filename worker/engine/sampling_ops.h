// SampleFromLogits with a named set of kernels: executors pass the instruction set they were told
// to use. The result is the same on all of them. Pure; any thread.
#ifndef REPRISE_WORKER_ENGINE_SAMPLING_OPS_H_
#define REPRISE_WORKER_ENGINE_SAMPLING_OPS_H_

#include <span>

#include "kernels/ops.h"
#include "worker/engine/sampling.h"

namespace reprise::worker {

SampledToken SampleWith(const kernels::CpuOps& ops, std::span<float> logits,
                        const SampleInput& input);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_SAMPLING_OPS_H_
