// A model, or a rank's share of one, loaded on a device: the checks before, the weights, and what
// its executor says of itself. A value that is moved.
#ifndef REPRISE_WORKER_DEVICE_LOADED_DEVICE_H_
#define REPRISE_WORKER_DEVICE_LOADED_DEVICE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "common/status.h"
#include "kvstore/block/group_split.h"
#include "worker/device/device_kernels.h"
#include "worker/device/device_model.h"
#include "worker/engine/executor.h"
#include "worker/model/model_config.h"
#include "worker/model/model_fingerprint.h"
#include "worker/model/model_share.h"

namespace reprise::worker {

struct DeviceOptions {
  std::string model_dir;
  std::string kv_dtype = "auto";  // auto or bf16, or fp8 for latents of 512 + 64
  int block_tokens = 64;          // what the device's kernels take
  int chunk_tokens = 0;           // prompt tokens a step may hold; 0: kDeviceChunkTokens
  int64_t pool_bytes = 0;         // of the pool that will be attached; 0: not known yet
  bool emulated = false;          // the CPU computes what a card would; else a card does
  bool unproven_kernels = false;
};

// Stripes of context ranks on devices: so many attention leaves of the CPU's, or a multiple.
inline constexpr uint32_t kDeviceStripeLeaves = 8;

// Keys of all ranks that a context rank gathers in a layer, at most.
inline constexpr int64_t kContextGatherBytes = int64_t{512} << 20;

// Enough rows to keep a card's tensor cores busy.
inline constexpr int32_t kDeviceChunkTokens = 2048;

struct LoadedDevice {
  // Of the whole model; without the sums of all tensors the format's fingerprint is zero.
  ExecutorInfo info;
  ModelConfig config;  // of the whole model
  ModelShare share;
  ModelFingerprint fingerprint;
  DeviceKernels kernels;
  std::unique_ptr<DeviceModel> model;
};

// The share of rank `rank` of the split; rank 0 sums the tensors of the others, too.
// FAILED_PRECONDITION without a device, INVALID_ARGUMENT and UNIMPLEMENTED for what it cannot do,
// by name, RESOURCE_EXHAUSTED when weights, pool and scratch do not fit, saying what would.
StatusOr<LoadedDevice> LoadOnDevice(const DeviceOptions& options, const kv::GroupSplit& split = {},
                                    uint32_t rank = 0);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_LOADED_DEVICE_H_
