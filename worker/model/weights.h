// A model's weights as the kernels want them, read from a folder and packed once. Owned by the
// model that computes with them; constant after Load, any thread. Nothing refers to the files
// afterwards, so a later change to them cannot change a token.
//
// Invariants:
// 1. Fused matrices hold their parts' rows one after the other: q | k | v and gate | up.
// 2. Rotated rows stand as the kernels rotate them, the pair's halves apart, and first in their
//    head. Scores do not change by it, since queries and keys are moved alike.
// 3. FP8 matrices are widened to bf16 when the embedding is bf16, else to f32 (block_scaled.h).
// 4. The fingerprint has the sum of every tensor that a byte was taken of.
#ifndef REPRISE_WORKER_MODEL_WEIGHTS_H_
#define REPRISE_WORKER_MODEL_WEIGHTS_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "common/status.h"
#include "kernels/ops.h"
#include "kernels/packed_weights.h"
#include "worker/model/model_fingerprint.h"
#include "worker/model/model_folder.h"
#include "worker/model/model_share.h"

namespace reprise::worker {

struct Projection {
  kernels::PackedWeights matrix;
  std::vector<float> bias;  // empty: none
  // Of a row-parallel product (kernels::LinearArgs): fewer slices than the whole has are a rank's
  // share, whose sum is still to be joined with the other ranks'.
  int k_slices = kernels::kRowParallelSlices;
  int64_t slice_k = 0;

  bool split() const { return k_slices < kernels::kRowParallelSlices; }
};

struct HeadsWeights {
  Projection qkv;                     // [(heads + 2 kv_heads) head_dim, hidden]
  std::vector<float> q_norm, k_norm;  // [head_dim], or empty
};

// Rows and columns by LatentAttention's names; one matrix per head in the vectors.
struct LatentWeights {
  Projection q_a;                              // [q_rank, hidden], empty without a query rank
  std::vector<float> q_a_norm;                 // [q_rank]
  kernels::PackedWeights q;                    // [heads (rope_dim + nope_dim), q_rank or hidden]
  Projection kv_a;                             // [kv_rank + rope_dim, hidden]
  std::vector<float> kv_a_norm;                // [kv_rank]
  std::vector<kernels::PackedWeights> key;     // [nope_dim, kv_rank]: a latent to a head's key
  std::vector<kernels::PackedWeights> absorb;  // its transpose: a head's query to a latent's
  std::vector<kernels::PackedWeights> value;   // [value_dim, kv_rank]
};

struct MlpWeights {
  Projection gate_up;  // [2 intermediate, hidden]
  Projection down;     // [hidden, intermediate]
};

struct MixtureWeights {
  kernels::PackedWeights gate;      // [experts, hidden], f32 whatever the model is
  std::vector<float> bias;          // [experts], or empty
  std::vector<MlpWeights> experts;  // the share's
  Span own;                         // their ids
  std::optional<MlpWeights> shared;
};

// Exactly one of each pair is there.
struct LayerWeights {
  std::vector<float> attention_norm;  // [hidden]
  std::optional<HeadsWeights> heads;
  std::optional<LatentWeights> latent;
  Projection o;                 // [hidden, heads value_dim]
  std::vector<float> mlp_norm;  // [hidden]
  std::optional<MlpWeights> mlp;
  std::optional<MixtureWeights> mixture;
};

// The whole model's or a share's (model_share.h): sizes above are then the share's own.
struct ModelWeights {
  kernels::PackedWeights embedding;  // [vocab, hidden], of the first stage
  std::vector<LayerWeights> layers;
  // Of the last stage.
  std::vector<float> final_norm;   // [hidden]
  kernels::PackedWeights lm_head;  // [the share's vocab, hidden]; empty: the embedding serves
  kernels::DType dtype = kernels::DType::kF32;  // of the embedding, as stored
  ModelFingerprint fingerprint;

  const kernels::PackedWeights& head() const { return lm_head.n() == 0 ? embedding : lm_head; }
  int64_t bytes() const;  // of all packed matrices
};

// Which tensors the fingerprint has the sums of. Those of a share are read in any case.
enum class Sums { kOfShare, kOfAll };

// UNIMPLEMENTED when the parts of a fused matrix have different types, INVALID_ARGUMENT when an FP8
// matrix holds what is not finite, ABORTED when a file
// changed while it was read.
StatusOr<ModelWeights> LoadModelWeights(const ModelFolder& folder, const ModelShare& share,
                                        Sums sums = Sums::kOfShare);
StatusOr<ModelWeights> LoadModelWeights(const ModelFolder& folder);  // whole
// With the sums that an earlier share of the same folder had: they are not made again, and the
// fingerprint has them, too.
StatusOr<ModelWeights> LoadModelWeights(const ModelFolder& folder, const ModelShare& share,
                                        ModelFingerprint known, Sums sums = Sums::kOfShare);

// Rows `ids` of a packed matrix as f32: out row i = row ids[i]. Ids are in [0, packed.n()).
void GatherRows(const kernels::CpuOps& ops, const kernels::PackedWeights& packed,
                std::span<const int32_t> ids, kernels::F32 out);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_WEIGHTS_H_
