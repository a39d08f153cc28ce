// Who sends what: hops, moves and bytes, against counting them out.
#include "worker/parallel/context/geometry.h"

#include <gtest/gtest.h>

#include <set>

namespace reprise::parallel {
namespace {

constexpr WireShape kWire{
    .block_tokens = 64, .page_bytes = 1000, .query_bytes = 40, .partial_floats = 7};

Stripes Of(int ranks, int64_t leaves = 1) { return *Stripes::Make(ranks, leaves); }

TEST(Geometry, RunsAreTheQueriesByOwnerCutAtStripes) {
  const Stripes stripes = Of(2);
  const std::vector<ContextItem> items = {{500, 1600}, {10, 3}};
  int64_t rows = 0;
  for (int rank = 0; rank < 2; ++rank) {
    int64_t item = -1;
    int64_t row = 0;
    for (const QueryRun& run : RunsOf(stripes, items, rank)) {
      if (run.item != item) row = 0;
      item = run.item;
      EXPECT_EQ(run.row, row);
      row += run.rows;
      rows += run.rows;
      EXPECT_EQ(stripes.StripeOf(run.first_position), run.last);
      EXPECT_EQ(stripes.StripeOf(run.keys() - 1), run.last);
      EXPECT_EQ(stripes.OwnerOf(run.last), rank);
    }
  }
  EXPECT_EQ(rows, 1603);
}

// Of a whole prompt of full rounds each shard visits every rank: the ring's formula.
TEST(Geometry, AWholePromptSendsEveryShardPMinusOneTimes) {
  for (const int ranks : {1, 2, 3, 4, 5}) {
    const Stripes stripes = Of(ranks, 2);
    const int64_t keys = 3 * stripes.per_round() * stripes.tokens();
    const int64_t shard_bytes = keys / ranks / 64 * kWire.page_bytes;
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_EQ(RingBytes(stripes, {0, keys}, kWire, rank), (ranks - 1) * shard_bytes);
      EXPECT_EQ(GatherBytes(stripes, {0, keys}, kWire, rank), (ranks - 1) * shard_bytes);
    }
  }
}

TEST(Geometry, AShardGoesNoFartherThanItsQueries) {
  const Stripes stripes = Of(4);
  // One query, of rank 1 (stripe 9 = round 1, rank 1), sees stripes 0 to 9.
  const ContextItem item{9 * 512 + 5, 1};
  EXPECT_EQ(HopsOf(stripes, item, 0, 0), 1);
  EXPECT_EQ(HopsOf(stripes, item, 0, 1), 0);
  EXPECT_EQ(HopsOf(stripes, item, 0, 2), 3);
  EXPECT_EQ(HopsOf(stripes, item, 0, 3), 2);
  EXPECT_EQ(HopsOf(stripes, item, 1, 0), 1);
  EXPECT_EQ(HopsOf(stripes, item, 1, 2), 0) << "stripe 10 has no keys";
}

TEST(Geometry, ASequenceShorterThanItsStripesHasPagesWhereItsRowsAre) {
  const Stripes stripes = Of(4, 2);
  EXPECT_EQ(PagesKept(stripes, 64, 0, 1), 1);
  EXPECT_EQ(PagesKept(stripes, 64, 1, 1), 0);
  EXPECT_EQ(PagesKept(stripes, 64, 0, 1500), 16);
  EXPECT_EQ(PagesKept(stripes, 64, 1, 1500), 8);
  EXPECT_EQ(RingBytes(stripes, {0, 1}, kWire, 0), 0);
}

// Every rank's results reach the owner once, however they are merged.
TEST(Geometry, MovesBringEveryRanksResultsToTheOwner) {
  for (const Merge merge : {Merge::kGather, Merge::kTree}) {
    for (int ranks = 1; ranks <= 9; ++ranks) {
      for (int owner = 0; owner < ranks; ++owner) {
        std::vector<std::set<int>> holds(static_cast<size_t>(ranks));
        for (int rank = 0; rank < ranks; ++rank) holds[static_cast<size_t>(rank)] = {rank};
        for (const auto& level : MovesOf(merge, ranks, owner)) {
          const auto before = holds;
          for (const Move& move : level) {
            const std::set<int>& from = before[static_cast<size_t>(move.from)];
            std::set<int> named;
            for (int r = move.ranks.begin; r < move.ranks.end; ++r) named.insert(r);
            ASSERT_EQ(from, named) << "what is sent is what is held";
            holds[static_cast<size_t>(move.from)].clear();
            holds[static_cast<size_t>(move.to)].insert(from.begin(), from.end());
          }
        }
        EXPECT_EQ(holds[static_cast<size_t>(owner)].size(), static_cast<size_t>(ranks))
            << ranks << " ranks, owner " << owner;
      }
    }
  }
}

TEST(Geometry, ATreeHasLogarithmicallyManyLevels) {
  EXPECT_EQ(MovesOf(Merge::kTree, 8, 3).size(), 3U);
  EXPECT_EQ(MovesOf(Merge::kTree, 5, 0).size(), 3U);
  EXPECT_EQ(MovesOf(Merge::kGather, 8, 3).size(), 1U);
}

TEST(Geometry, QueriesGoOnlyToRanksThatKeepKeysTheySee) {
  const Stripes stripes = Of(4);
  // Query at stripe 1 (rank 1): stripes 0 and 1 are there, of ranks 0 and 1.
  const ContextItem item{600, 1};
  EXPECT_EQ(QueryBytes(stripes, item, kWire, 1, Merge::kGather), 4 * 10) << "its query, to rank 0";
  EXPECT_EQ(QueryBytes(stripes, item, kWire, 0, Merge::kGather), 4 * 7) << "one node's result";
  EXPECT_EQ(QueryBytes(stripes, item, kWire, 2, Merge::kGather), 0);
}

}  // namespace
}  // namespace reprise::parallel
