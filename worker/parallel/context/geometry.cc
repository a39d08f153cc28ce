#include "worker/parallel/context/geometry.h"

#include <algorithm>

namespace reprise::parallel {
namespace {

// The last query of the rank; -1: none.
int64_t LastQuery(const Stripes& stripes, const ContextItem& item, int rank) {
  for (int64_t end = item.keys(); end > item.first_position;) {
    const int64_t stripe = stripes.StripeOf(end - 1);
    if (stripes.OwnerOf(stripe) == rank) return end - 1;
    end = stripe * stripes.tokens();
  }
  return -1;
}

// Aligned ranks [begin, end) of a group; who of them holds what they made of the owner's rows.
int HolderOf(RankSpan group, int owner) { return group.Has(owner) ? owner : group.begin; }

int64_t SentQueryRows(const std::vector<QueryRun>& runs, int to) {
  int64_t rows = 0;
  for (const QueryRun& run : runs) {
    if (Sees(run, to)) rows += run.rows;
  }
  return rows;
}

}  // namespace

std::vector<QueryRun> RunsOf(const Stripes& stripes, const std::vector<ContextItem>& items,
                             int rank) {
  std::vector<QueryRun> runs;
  for (size_t i = 0; i < items.size(); ++i) {
    int64_t row = 0;
    for (const PositionRange& range : stripes.OwnedIn(rank, items[i].range())) {
      for (int64_t at = range.begin; at < range.end;) {
        const int64_t stripe = stripes.StripeOf(at);
        const int64_t end = std::min(range.end, (stripe + 1) * stripes.tokens());
        runs.push_back({static_cast<int64_t>(i), at, end - at, stripe, row});
        row += end - at;
        at = end;
      }
    }
  }
  return runs;
}

int64_t PagesOfStripe(const Stripes& stripes, int64_t block_tokens, int64_t stripe, int64_t keys) {
  const int64_t rows = std::clamp<int64_t>(keys - stripe * stripes.tokens(), 0, stripes.tokens());
  return (rows + block_tokens - 1) / block_tokens;
}

int64_t PagesKept(const Stripes& stripes, int64_t block_tokens, int rank, int64_t keys) {
  return (stripes.RowsKept(rank, keys) + block_tokens - 1) / block_tokens;
}

// ---- Ring. ----

int Distance(int from, int to, int ranks) { return (to - from + ranks) % ranks; }

int HopsOf(const Stripes& stripes, const ContextItem& item, int64_t round, int owner) {
  const int64_t first = stripes.StripeIn(round, owner, 0) * stripes.tokens();
  if (first >= item.keys()) return 0;
  int hops = 0;
  for (int rank = 0; rank < stripes.ranks(); ++rank) {
    if (LastQuery(stripes, item, rank) >= first) {
      hops = std::max(hops, Distance(owner, rank, stripes.ranks()));
    }
  }
  return hops;
}

int64_t ShardPages(const Stripes& stripes, int64_t block_tokens, int64_t round, int owner,
                   int64_t keys) {
  return PagesOfStripe(stripes, block_tokens, stripes.StripeIn(round, owner, 0), keys) +
         PagesOfStripe(stripes, block_tokens, stripes.StripeIn(round, owner, 1), keys);
}

int64_t RoundsOf(const Stripes& stripes, int64_t keys) {
  return (stripes.CountOf(keys) + stripes.per_round() - 1) / stripes.per_round();
}

int64_t RingBytes(const Stripes& stripes, const ContextItem& item, const WireShape& wire,
                  int rank) {
  int64_t pages = 0;
  for (int64_t round = 0; round < RoundsOf(stripes, item.keys()); ++round) {
    for (int owner = 0; owner < stripes.ranks(); ++owner) {
      if (Distance(owner, rank, stripes.ranks()) >= HopsOf(stripes, item, round, owner)) continue;
      pages += ShardPages(stripes, wire.block_tokens, round, owner, item.keys());
    }
  }
  return pages * wire.page_bytes;
}

int64_t GatherBytes(const Stripes& stripes, const ContextItem& item, const WireShape& wire,
                    int rank) {
  return (stripes.ranks() - 1) * PagesKept(stripes, wire.block_tokens, rank, item.keys()) *
         wire.page_bytes;
}

// ---- Pass-Q. ----

std::vector<std::vector<Move>> MovesOf(Merge merge, int ranks, int owner) {
  std::vector<std::vector<Move>> levels;
  if (merge == Merge::kGather) {
    levels.emplace_back();
    for (int rank = 0; rank < ranks; ++rank) {
      if (rank != owner) levels[0].push_back({rank, owner, {rank, rank + 1}});
    }
    return levels;
  }
  for (int half = 1; half < ranks; half *= 2) {
    levels.emplace_back();
    for (int begin = 0; begin + half < ranks; begin += 2 * half) {
      const RankSpan left{begin, begin + half};
      const RankSpan right{begin + half, std::min(begin + 2 * half, ranks)};
      const bool leftwards = !right.Has(owner);
      const RankSpan from = leftwards ? right : left;
      levels.back().push_back(
          {HolderOf(from, owner), HolderOf(leftwards ? left : right, owner), from});
    }
  }
  return levels;
}

int64_t MoveFloats(const Stripes& stripes, const std::vector<QueryRun>& runs, RankSpan ranks,
                   int64_t partial_floats) {
  int64_t floats = 0;
  for (const QueryRun& run : runs) {
    const auto nodes = static_cast<int64_t>(Cover(stripes, ranks, run.last).size());
    floats += run.rows * nodes * partial_floats;
  }
  return floats;
}

int64_t QueryBytes(const Stripes& stripes, const ContextItem& item, const WireShape& wire, int rank,
                   Merge merge) {
  int64_t bytes = 0;
  int64_t floats = 0;
  const std::vector<QueryRun> own = RunsOf(stripes, {item}, rank);
  for (int owner = 0; owner < stripes.ranks(); ++owner) {
    if (owner != rank) bytes += SentQueryRows(own, owner) * wire.query_bytes;
    const std::vector<QueryRun> runs = RunsOf(stripes, {item}, owner);
    for (const std::vector<Move>& level : MovesOf(merge, stripes.ranks(), owner)) {
      for (const Move& move : level) {
        if (move.from == rank) {
          floats += MoveFloats(stripes, runs, move.ranks, wire.partial_floats);
        }
      }
    }
  }
  return bytes + floats * static_cast<int64_t>(sizeof(float));
}

}  // namespace reprise::parallel
