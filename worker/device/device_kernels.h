// Which kernels the device computes with where there is a choice. The plain ones are right on any
// card from compute capability 8.0 on; the others are for Hopper, and a card must have run them
// before they are taken without being asked for (docs/gpu.md has the record). The choice is part of
// the numerics class. A value.
#ifndef REPRISE_WORKER_DEVICE_DEVICE_KERNELS_H_
#define REPRISE_WORKER_DEVICE_DEVICE_KERNELS_H_

#include <string>
#include <vector>

#include "kernels/cuda/decode.h"
#include "kernels/cuda/device/runtime.h"
#include "worker/model/model_config.h"

namespace reprise::worker {

struct DeviceKernels {
  bool gemm = false;     // Gemm, else GemmSimple
  bool prefill = false;  // Prefill, else PrefillSimple
  bool decode = false;   // Decode, else PrefillSimple
  bool fp8 = false;      // the cache's rows are those of kernels/fp8_row.h
  bool sample = false;   // Sample, else the host draws from the logits
  bool pack = false;     // PackSegments for pages written whole, else all rows go one by one

  // Prompt rows and step rows go through different kernels.
  bool two_forms() const { return prefill || decode; }
  std::string Text() const;  // what bits depend on
};

// What serves this model on this device with such rows: all proven kernels, and with `unproven` the
// others that fit.
DeviceKernels ChooseKernels(const ModelConfig& config, const cuda::DeviceInfo& device, bool fp8,
                            bool unproven);
// What Decode is told of the model; rows, memory and plan are a step's.
cuda::DecodeArgs DecodeShapeOf(const ModelConfig& config, bool fp8);
// Those of the choice that no card has run, by name: for a warning.
std::vector<std::string> UnprovenIn(const DeviceKernels& kernels);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_DEVICE_KERNELS_H_
