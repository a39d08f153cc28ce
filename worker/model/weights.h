// A Llama model's weights as the kernels want them, read from a folder and packed once. Owned by
// the model that computes with them; constant after Load, any thread. Nothing refers to the files
// afterwards, so a later change to them cannot change a token.
//
// Invariants:
// 1. Fused matrices hold their parts' rows one after the other: q | k | v and gate | up.
// 2. The fingerprint is SHA-256 over the configuration's canonical text and, by tensor name, each
//    needed tensor's name, type, shape and CRC-32C: the same model in other shards has the same
//    one.
#ifndef REPRISE_WORKER_MODEL_WEIGHTS_H_
#define REPRISE_WORKER_MODEL_WEIGHTS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "common/sha256.h"
#include "common/status.h"
#include "kernels/ops.h"
#include "kernels/packed_weights.h"
#include "worker/model/model_folder.h"

namespace reprise::worker {

// Bias vectors are empty when the model has none.
struct LlamaLayerWeights {
  std::vector<float> attention_norm;  // [hidden]
  kernels::PackedWeights qkv;         // [(heads + 2 kv_heads) head_dim, hidden]
  std::vector<float> qkv_bias;
  kernels::PackedWeights o;  // [hidden, heads head_dim]
  std::vector<float> o_bias;
  std::vector<float> mlp_norm;     // [hidden]
  kernels::PackedWeights gate_up;  // [2 intermediate, hidden]
  std::vector<float> gate_up_bias;
  kernels::PackedWeights down;  // [hidden, intermediate]
  std::vector<float> down_bias;
};

struct LlamaWeights {
  kernels::PackedWeights embedding;  // [vocab, hidden]
  std::vector<LlamaLayerWeights> layers;
  std::vector<float> final_norm;   // [hidden]
  kernels::PackedWeights lm_head;  // empty when tied
  bool tied = false;
  kernels::DType dtype = kernels::DType::kF32;  // of the embedding, as stored
  Digest256 fingerprint{};

  const kernels::PackedWeights& head() const { return tied ? embedding : lm_head; }
  int64_t bytes() const;  // of all packed matrices
};

// INVALID_ARGUMENT when the parts of a fused matrix have different types, ABORTED when a file
// changed while it was read.
StatusOr<LlamaWeights> LoadLlamaWeights(const ModelFolder& folder);

// Rows `ids` of a packed matrix as f32: out row i = row ids[i]. Ids are in [0, packed.n()).
void GatherRows(const kernels::CpuOps& ops, const kernels::PackedWeights& packed,
                std::span<const int32_t> ids, kernels::F32 out);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_WEIGHTS_H_
