// A model's weights on a device: matrices in bf16 as rows, heads and experts as batches, vectors in
// f32. Made layer by layer from the packed weights of the CPU, so that the host holds a few layers
// at a time. Owned by the DeviceModel; constant after loading.
//
// Matrices of other types are rounded to bf16: the products of a device take nothing else.
#ifndef REPRISE_WORKER_DEVICE_DEVICE_WEIGHTS_H_
#define REPRISE_WORKER_DEVICE_DEVICE_WEIGHTS_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "common/status.h"
#include "kernels/cuda/device/buffer.h"
#include "kernels/cuda/gemm.h"
#include "worker/model/model_config.h"
#include "worker/model/model_folder.h"
#include "worker/model/model_share.h"
#include "worker/model/weights.h"

namespace reprise::worker {

// [batch, n, k]; n is rounded up to a multiple of 8 with rows of zeros.
struct DeviceMatrix {
  cuda::Buffer memory;
  cuda::GemmWeights view;
  cuda::Buffer bias;  // f32 [n], or empty
  const float* bias_data() const { return bias.as<float>(); }
};

struct DeviceHeads {
  DeviceMatrix qkv;
  cuda::Buffer q_norm, k_norm;  // f32 [head_dim], or empty
};

struct DeviceLatent {
  DeviceMatrix q_a;  // empty without a query rank
  cuda::Buffer q_a_norm;
  DeviceMatrix q;
  DeviceMatrix kv_a;
  cuda::Buffer kv_a_norm;
  DeviceMatrix key;              // [heads nope_dim, kv_rank]: latents to keys
  DeviceMatrix absorb;           // [heads][kv_rank, nope_dim]: queries to the latents' space
  DeviceMatrix value;            // [heads][value_dim, kv_rank]
  cuda::GemmWeights all_values;  // the same as [heads value_dim, kv_rank]
};

struct DeviceMlp {
  DeviceMatrix gate_up, down;
};

struct DeviceMixture {
  DeviceMatrix gate;
  cuda::Buffer bias;           // of the choice, f32 [experts], or empty
  DeviceMatrix gate_up, down;  // [experts]
  Span own;                    // ids of the experts it has
  std::optional<DeviceMlp> shared;
};

struct DeviceLayer {
  cuda::Buffer attention_norm, mlp_norm;
  std::optional<DeviceHeads> heads;
  std::optional<DeviceLatent> latent;
  DeviceMatrix o;
  std::optional<DeviceMlp> mlp;
  std::optional<DeviceMixture> mixture;
};

struct DeviceWeights {
  DeviceMatrix embedding;
  std::vector<DeviceLayer> layers;
  cuda::Buffer final_norm;
  DeviceMatrix lm_head;  // empty: the embedding serves

  const DeviceMatrix& head() const { return lm_head.view.n == 0 ? embedding : lm_head; }
};

// UNIMPLEMENTED for a dimension that a device's kernels do not take, by name; RESOURCE_EXHAUSTED
// when the device's memory is spent.
StatusOr<DeviceWeights> UploadWeights(const ModelWeights& weights);
// The same of a share of a folder, a few layers at a time in host memory. `fingerprint` gets the
// sums of the share's tensors, or of all.
StatusOr<DeviceWeights> LoadDeviceWeights(const ModelFolder& folder, const ModelShare& share,
                                          Sums sums, ModelFingerprint* fingerprint);
// Of the matrices above, in bytes, from the configuration alone: a share's own (ConfigOfShare).
int64_t DeviceWeightBytes(const ModelConfig& config, const ModelShare& share);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_DEVICE_WEIGHTS_H_
