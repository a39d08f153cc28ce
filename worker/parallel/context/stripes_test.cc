// Ownership and the tree over stripes, against their definitions.
#include "worker/parallel/context/stripes.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "common/limits.h"
#include "worker/parallel/context/stripe_tree.h"

namespace reprise::parallel {
namespace {

Stripes Of(int ranks, int64_t leaves) {
  auto stripes = Stripes::Make(ranks, leaves);
  EXPECT_TRUE(stripes.ok()) << stripes.status();
  return *stripes;
}

TEST(Stripes, RefusesWhatIsNotAPowerOfTwo) {
  for (const int64_t leaves : {int64_t{0}, int64_t{3}, int64_t{-2}, 2 * limits::kStripeLeavesMax}) {
    EXPECT_EQ(Stripes::Make(2, leaves).status().code(), absl::StatusCode::kInvalidArgument)
        << leaves;
  }
  EXPECT_EQ(Stripes::Make(0, 1).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Stripes, GoToTheRanksInZigzag) {
  const Stripes three = Of(3, 1);
  std::vector<int> owners;
  for (int64_t stripe = 0; stripe < 8; ++stripe) owners.push_back(three.OwnerOf(stripe));
  EXPECT_EQ(owners, (std::vector<int>{0, 1, 2, 2, 1, 0, 0, 1}));
}

TEST(Stripes, EveryRankHasTheSameCausalWorkInEveryRound) {
  for (const int ranks : {1, 2, 3, 4, 5, 8}) {
    const Stripes stripes = Of(ranks, 2);
    std::map<int, int64_t> work;  // stripe i has keys of i stripes before it
    for (int64_t stripe = 0; stripe < 6 * stripes.per_round(); ++stripe) {
      work[stripes.OwnerOf(stripe)] += stripe;
    }
    for (const auto& [rank, sum] : work) EXPECT_EQ(sum, work[0]) << rank << " of " << ranks;
  }
}

TEST(Stripes, EveryPositionIsARowOfItsOwnersAndOfNobodyElses) {
  for (const int ranks : {1, 2, 3, 4, 5}) {
    for (const int64_t leaves : {1, 2}) {
      const Stripes stripes = Of(ranks, leaves);
      const int64_t end = 3 * stripes.per_round() * stripes.tokens() + 777;
      std::map<int, int64_t> rows;
      for (int64_t position = 0; position < end; ++position) {
        const int owner = stripes.OwnerOfPosition(position);
        ASSERT_EQ(stripes.LocalRow(position), rows[owner]++) << position;
        if (position % 97 == 0) {
          for (int rank = 0; rank < ranks; ++rank) {
            ASSERT_EQ(stripes.RowsKept(rank, position + 1), rows[rank]) << rank << " " << position;
          }
        }
      }
    }
  }
}

TEST(Stripes, AroundHasTwoStripesOfEachRank) {
  const Stripes stripes = Of(5, 1);
  for (int rank = 0; rank < 5; ++rank) {
    for (const int which : {0, 1}) {
      const int64_t stripe = stripes.StripeIn(3, rank, which);
      EXPECT_EQ(stripes.OwnerOf(stripe), rank);
      EXPECT_EQ(stripe / stripes.per_round(), 3);
    }
    EXPECT_LT(stripes.StripeIn(3, rank, 0), stripes.StripeIn(3, rank, 1));
  }
}

TEST(Stripes, OwnedRangesAreTheRanksPositionsJoined) {
  const Stripes stripes = Of(3, 1);
  // Stripes 2 and 3 are rank 2's, 5 and 6 rank 0's.
  EXPECT_EQ(stripes.OwnedIn(2, {1000, 2100}), (std::vector<PositionRange>{{1024, 2048}}));
  EXPECT_EQ(stripes.OwnedIn(0, {100, 3600}),
            (std::vector<PositionRange>{{100, 512}, {2560, 3584}}));
  EXPECT_TRUE(stripes.OwnedIn(1, {0, 512}).empty());
}

// By the definition, from the root down: the leaves of a node that are there, and whether the set
// holds all of them.
void CoverFromTheRoot(const Stripes& stripes, RankSpan ranks, int64_t last, StripeNode node,
                      std::vector<StripeNode>* cover) {
  if (node.first() > last) return;
  bool whole = true;
  for (int64_t i = node.first(); i < node.end() && i <= last; ++i) {
    whole = whole && ranks.Has(stripes.OwnerOf(i));
  }
  if (whole) {
    cover->push_back(node);
  } else if (node.level > 0) {
    CoverFromTheRoot(stripes, ranks, last, {node.level - 1, 2 * node.index}, cover);
    CoverFromTheRoot(stripes, ranks, last, {node.level - 1, 2 * node.index + 1}, cover);
  }
}

TEST(StripeTree, CoverIsTheFewestWholeNodes) {
  for (const int ranks : {1, 2, 3, 4, 5, 8}) {
    const Stripes stripes = Of(ranks, 1);
    for (int64_t last = 0; last < 40; ++last) {
      StripeNode root;
      while (!IsRoot(root, last)) root = root.Parent();
      for (int begin = 0; begin < ranks; ++begin) {
        for (int end = begin + 1; end <= ranks; ++end) {
          std::vector<StripeNode> want;
          CoverFromTheRoot(stripes, {begin, end}, last, root, &want);
          ASSERT_EQ(Cover(stripes, {begin, end}, last), want)
              << "ranks " << begin << " to " << end << " of " << ranks << ", stripes to " << last;
        }
      }
    }
  }
}

}  // namespace
}  // namespace reprise::parallel
