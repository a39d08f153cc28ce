// What of a model one rank of a group holds and computes: some layers, heads, columns of the MLPs,
// experts and rows of the output head, aligned to the canonical reductions so that the split does
// not change a bit. Pure; any thread.
//
// Row-parallel products (o_proj, down_proj) sum k in 8 slices (kernels/ops.h); a tensor rank has
// consecutive ones. So its heads and MLP columns are those of its slices. Keys and values of a head
// that several ranks query, and latents, are on each of them. Experts stay whole.
#ifndef REPRISE_WORKER_MODEL_MODEL_SHARE_H_
#define REPRISE_WORKER_MODEL_MODEL_SHARE_H_

#include <cstdint>

#include "common/status.h"
#include "kvstore/block/group_split.h"
#include "worker/model/model_config.h"

namespace reprise::worker {

struct Span {
  int64_t begin = 0;
  int64_t end = 0;  // one past the last
  int64_t size() const { return end - begin; }
  bool operator==(const Span&) const = default;
};

struct ModelShare {
  bool first_stage = true;  // has the embedding
  bool last_stage = true;   // has the final norm and the output head
  Span layers;
  Span heads;
  Span kv_heads;
  Span slices;   // of the 8
  Span experts;  // of each mixture
  Span vocab;    // rows of the output head

  // Of a row-parallel product over k, or a column-parallel one of so many columns before it: those
  // in this rank's slices.
  Span Columns(int64_t k) const;
};

// Everything.
ModelShare WholeModel(const ModelConfig& config);

// INVALID_ARGUMENT names the dimension that this split does not divide.
StatusOr<ModelShare> ShareOf(const ModelConfig& config, const kv::GroupSplit& split, uint32_t rank);

// The configuration of a model that is no more than the share: its layers, heads and columns. For
// whoever computes; what is not split (hidden, vocab, experts to choose from) stays.
ModelConfig ConfigOfShare(const ModelConfig& config, const ModelShare& share);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_MODEL_SHARE_H_
