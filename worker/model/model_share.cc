#include "worker/model/model_share.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/ops.h"
#include "worker/parallel/communicator.h"

namespace reprise::worker {
namespace {

using kv::GroupSplit;

// Consecutive parts of n, as a reduction's.
Span PartOf(int64_t n, uint32_t rank, uint32_t ranks) {
  const parallel::Chunk part =
      parallel::ChunkOf(static_cast<size_t>(n), static_cast<int>(rank), static_cast<int>(ranks));
  return {static_cast<int64_t>(part.begin), static_cast<int64_t>(part.end)};
}

Status DoesNotDivide(const GroupSplit& split, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("tensor degree ", split.tensor, " does not divide ", what));
}

// Heads whose columns of the output projection are exactly the rank's slices.
Status ShareHeads(const ModelConfig& config, const GroupSplit& split, ModelShare* share) {
  const int64_t dim = config.value_dim();
  const Span columns = share->Columns(config.heads * dim);
  if (columns.begin % dim != 0 || columns.end % dim != 0 || columns.size() == 0) {
    return DoesNotDivide(
        split, absl::StrCat(config.heads, " heads of ", dim, ": a slice of their output has ",
                            kernels::SliceK(config.heads * dim), " columns"));
  }
  share->heads = {columns.begin / dim, columns.end / dim};
  const int64_t group = config.heads / config.kv_heads;
  share->kv_heads = {share->heads.begin / group, (share->heads.end - 1) / group + 1};
  // Every query head of the rank must find its key head by the rank's own group size.
  const bool whole = share->heads.begin % group == 0 && share->heads.end % group == 0;
  if (config.latent || whole || share->kv_heads.size() == 1) return absl::OkStatus();
  return DoesNotDivide(split,
                       absl::StrCat(config.kv_heads, " key heads of ", group, " query heads each"));
}

Status ShareColumns(const ModelConfig& config, const GroupSplit& split, const ModelShare& share) {
  const auto check = [&](absl::string_view what, int64_t columns) {
    if (columns == 0 || share.Columns(columns).size() > 0) return absl::OkStatus();
    return DoesNotDivide(
        split, absl::StrCat(what, " of ", columns, " in slices of ", kernels::SliceK(columns)));
  };
  RETURN_IF_ERROR(check("intermediate_size", config.intermediate));
  if (!config.mixture) return absl::OkStatus();
  if (config.mixture->experts < split.tensor) {
    return DoesNotDivide(split, absl::StrCat(config.mixture->experts, " experts"));
  }
  return check("the shared expert", config.mixture->shared_intermediate);
}

}  // namespace

Span ModelShare::Columns(int64_t k) const {
  const int64_t width = kernels::SliceK(k);
  return {std::min(slices.begin * width, k), std::min(slices.end * width, k)};
}

ModelShare WholeModel(const ModelConfig& config) {
  ModelShare share;
  share.layers = {0, config.layers};
  share.heads = {0, config.heads};
  share.kv_heads = {0, config.kv_heads};
  share.slices = {0, kernels::kRowParallelSlices};
  share.experts = {0, config.mixture ? config.mixture->experts : 0};
  share.vocab = {0, config.vocab};
  return share;
}

StatusOr<ModelShare> ShareOf(const ModelConfig& config, const GroupSplit& split, uint32_t rank) {
  const kv::RankPlace place = kv::PlaceOf(split, rank);
  if (split.pipeline > config.layers) {
    return absl::InvalidArgumentError(absl::StrCat("pipeline degree ", split.pipeline,
                                                   " is more than the ", config.layers, " layers"));
  }
  ModelShare share = WholeModel(config);
  share.first_stage = place.stage == 0;
  share.last_stage = place.stage + 1 == split.pipeline;
  share.layers = PartOf(config.layers, place.stage, split.pipeline);
  if (split.tensor == 1) return share;
  share.slices = PartOf(share.slices.end, place.tensor, split.tensor);
  share.experts = PartOf(share.experts.end, place.tensor, split.tensor);
  share.vocab = PartOf(config.vocab, place.tensor, split.tensor);
  RETURN_IF_ERROR(ShareHeads(config, split, &share));
  RETURN_IF_ERROR(ShareColumns(config, split, share));
  return share;
}

ModelConfig ConfigOfShare(const ModelConfig& config, const ModelShare& share) {
  ModelConfig own = config;
  own.layers = share.layers.size();
  own.heads = share.heads.size();
  own.kv_heads = config.latent ? own.heads : share.kv_heads.size();
  own.intermediate = share.Columns(config.intermediate).size();
  if (own.mixture) {
    own.mixture->shared_intermediate = share.Columns(config.mixture->shared_intermediate).size();
    own.mixture->layers.assign(config.mixture->layers.begin() + share.layers.begin,
                               config.mixture->layers.begin() + share.layers.end);
  }
  return own;
}

}  // namespace reprise::worker
