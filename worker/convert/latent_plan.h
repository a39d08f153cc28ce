// How one layer's keys and values become a rotated key and a latent: the linear algebra of TransMLA
// (arXiv 2502.07864, sections 4.1 to 4.3), worked out in docs/models.md. Pure functions; any
// thread.
//
// Notation: g KV heads of d dims; k and v are a token's keys before rotation and values, all heads
// one after the other, g d numbers each. Pair i of a head is dims i and i + d / 2, a complex number
// that rotation turns by position times frequency i.
//
// 1. Of every pair the g heads' numbers turn alike, so any unitary mixing of them commutes with
//    rotation. The principal components of k, pair by pair, gather its energy in few numbers; the
//    first go on being rotated, the others are taken as if they stood still. Pairs whose
//    frequencies are near each other may be mixed too ("fold"), as if they turned alike.
// 2. What stands still and v, brought to equal energy, share one latent: their first principal
//    components.
// Where nothing is left out by a step it changes nothing, to the bit.
#ifndef REPRISE_WORKER_CONVERT_LATENT_PLAN_H_
#define REPRISE_WORKER_CONVERT_LATENT_PLAN_H_

#include <cstdint>

#include "common/status.h"
#include "worker/convert/matrix.h"
#include "worker/model/model_config.h"

namespace reprise::convert {

struct LatentSizes {
  int64_t rope_dims = 0;  // of the rotated key; 0: all, kv_heads * head_dim
  int64_t rank = 0;       // of the latent; 0: all that is not rotated
  int64_t fold = 0;  // neighbouring pairs mixed as one frequency; 0: as few as rope_dims allows
};

// Sizes that fit a model.
struct LatentShape {
  int64_t heads = 0;     // of queries
  int64_t kv_heads = 0;  // g
  int64_t head_dim = 0;  // d
  int64_t rope_dims = 0;
  int64_t rank = 0;
  int64_t fold = 1;

  int64_t keys() const { return kv_heads * head_dim; }
  int64_t still() const { return keys() - rope_dims; }
  int64_t rank_max() const { return still() + keys(); }
  // The rotated key is so many heads side by side ...
  int64_t rope_heads() const { return rope_dims > head_dim ? rope_dims / head_dim : 1; }
  // ... or one that has every so manieth frequency.
  int64_t stride() const { return rope_dims < head_dim ? head_dim / rope_dims : 1; }
  bool needs_moments() const { return still() > 0 || rank < rank_max(); }
  // A head's dims that are not rotated: the original query where keys stand still, else the one
  // that the architecture asks for, and it is zero.
  int64_t nope_dim() const { return still() > 0 ? head_dim : 1; }
};

// `config` is that of a model with heads of keys and values. INVALID_ARGUMENT names the size, the
// limit and the value.
StatusOr<LatentShape> FitLatent(const worker::ModelConfig& config, const LatentSizes& sizes);

struct LatentPlan {
  Matrix rotated;         // [rope_dims, g d], k to the rotated key; pairs are neighbours
  Matrix down_keys;       // [rank, g d], k's share in the latent
  Matrix down_values;     // [rank, g d], v's
  Matrix up_keys;         // [g d, rank], the latent to what of k stands still
  Matrix up_values;       // [g d, rank], the latent to v
  double latent_rms = 0;  // of the latent's numbers over the moments' tokens; 0 without moments
};

// `moments` [2 g d, 2 g d]: the mean of z z^T, z = (k, v), over the tokens of a calibration text;
// empty when !shape.needs_moments() and latent_rms is not wanted.
StatusOr<LatentPlan> PlanLatent(const LatentShape& shape, const Matrix& moments);

}  // namespace reprise::convert

#endif  // REPRISE_WORKER_CONVERT_LATENT_PLAN_H_
