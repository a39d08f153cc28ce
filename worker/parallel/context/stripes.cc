#include "worker/parallel/context/stripes.h"

#include <algorithm>

#include "common/limits.h"
#include "kernels/ops.h"
#include "kvstore/block/group_split.h"

namespace reprise::parallel {

static_assert(kernels::kLeafTokens == kv::kLeafPositions);

StatusOr<Stripes> Stripes::Make(int ranks, int64_t leaves) {
  if (ranks < 1) return absl::InvalidArgumentError(absl::StrCat("stripes over ", ranks, " ranks"));
  if (leaves < 1 || leaves > limits::kStripeLeavesMax || (leaves & (leaves - 1)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a stripe of ", leaves, " leaves: not a power of two up to ", limits::kStripeLeavesMax));
  }
  return Stripes(ranks, leaves * kernels::kLeafTokens);
}

int Stripes::OwnerOf(int64_t stripe) const {
  return static_cast<int>(kv::StripeOwner(static_cast<uint32_t>(ranks_), stripe));
}

int64_t Stripes::StripeIn(int64_t round, int rank, int which) const {
  return round * per_round() + (which == 0 ? rank : per_round() - 1 - rank);
}

int64_t Stripes::LocalRow(int64_t position) const {
  const int64_t stripe = StripeOf(position);
  const int64_t ordinal = 2 * (stripe / per_round()) + (stripe % per_round() < ranks_ ? 0 : 1);
  return ordinal * tokens_ + position % tokens_;
}

int64_t Stripes::RowsKept(int rank, int64_t end) const {
  int64_t rows = end / (per_round() * tokens_) * 2 * tokens_;
  const int64_t round = end / (per_round() * tokens_);
  for (const int which : {0, 1}) {
    rows += std::clamp<int64_t>(end - StripeIn(round, rank, which) * tokens_, 0, tokens_);
  }
  return rows;
}

std::vector<PositionRange> Stripes::OwnedIn(int rank, PositionRange range) const {
  std::vector<PositionRange> owned;
  for (int64_t begin = range.begin; begin < range.end;) {
    const int64_t end = std::min(range.end, (StripeOf(begin) + 1) * tokens_);
    if (OwnerOfPosition(begin) == rank) {
      if (!owned.empty() && owned.back().end == begin) {
        owned.back().end = end;
      } else {
        owned.push_back({begin, end});
      }
    }
    begin = end;
  }
  return owned;
}

}  // namespace reprise::parallel
