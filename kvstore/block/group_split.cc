#include "kvstore/block/group_split.h"

#include <algorithm>

#include "common/limits.h"

namespace reprise::kv {
namespace {

Range LayersOf(const KvFormat& format, const GroupSplit& split, uint32_t stage) {
  return {format.layers * stage / split.pipeline, format.layers * (stage + 1) / split.pipeline};
}

bool Fits(uint32_t ranks) { return ranks >= 1 && ranks <= limits::kGroupRanksMax; }

}  // namespace

Status CheckRanks(const GroupSplit& split) {
  const bool few = Fits(split.pipeline) && Fits(split.tensor) && Fits(split.context) &&
                   Fits(split.ranks());  // each is small, so the product does not overflow
  if (few) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a group of ", split.pipeline, " x ", split.context, " x ", split.tensor,
                   " ranks, the limit is 1 to ", limits::kGroupRanksMax));
}

Status CheckSplit(const KvFormat& format, const GroupSplit& split) {
  RETURN_IF_ERROR(CheckRanks(split));
  if (split.pipeline > format.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat(split.pipeline, " pipeline stages for ", format.layers, " layers"));
  }
  const uint32_t heads = PartHeads(format);
  if (heads % split.tensor != 0 && split.tensor % heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(split.tensor, " tensor ranks for ", heads, " KV heads"));
  }
  const bool whole_blocks =
      split.stripe_leaves > 0 && format.block_tokens > 0 &&
      kLeafPositions * split.stripe_leaves % static_cast<int64_t>(format.block_tokens) == 0;
  if (split.context > 1 && !whole_blocks) {
    return absl::InvalidArgumentError(absl::StrCat("blocks of ", format.block_tokens,
                                                   " tokens do not fill stripes of ",
                                                   split.stripe_leaves, " x ", kLeafPositions));
  }
  return absl::OkStatus();
}

uint32_t HeadReplicas(const KvFormat& format, const GroupSplit& split) {
  return std::max(1u, split.tensor / PartHeads(format));
}

KvPart PartOfRank(const KvFormat& format, const GroupSplit& split, uint32_t rank) {
  const RankPlace place = PlaceOf(split, rank);
  const uint32_t share = std::max(1u, PartHeads(format) / split.tensor);
  const uint32_t first = place.tensor / HeadReplicas(format, split) * share;
  return {.layers = LayersOf(format, split, place.stage), .heads = {first, first + share}};
}

}  // namespace reprise::kv
