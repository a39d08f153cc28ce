// The numerics class of a device: a digest of what its kernels give on known inputs, run at start,
// as the CPU's (worker/model/numerics_class.h). So a card, a driver or a kernel that computes
// otherwise gets another class, and its KV blocks never mix with ours. The steps thread's; runs on
// the device.
#ifndef REPRISE_WORKER_DEVICE_DEVICE_NUMERICS_H_
#define REPRISE_WORKER_DEVICE_DEVICE_NUMERICS_H_

#include "common/sha256.h"
#include "common/status.h"
#include "worker/device/device_kernels.h"
#include "worker/model/model_config.h"

namespace reprise::worker {

// Covers the choice of kernels, the rotation frequencies of `config` and a small model of fixed
// weights with the model's own head dims, run in prompt and in step form (logits, KV rows).
StatusOr<Digest256> DeviceNumericsClass(const ModelConfig& config, const DeviceKernels& kernels,
                                        const cuda::DeviceInfo& device);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_DEVICE_NUMERICS_H_
