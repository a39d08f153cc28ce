#include "worker/parallel/canonical_sum.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "worker/parallel/in_process.h"

namespace reprise::parallel {
namespace {

using testing::ElementsAre;

TEST(CanonicalSum, EverySliceIsHeldOnce) {
  for (int size = 1; size <= kSlices; ++size) {
    int next = 0;
    for (int r = 0; r < size; ++r) {
      const SliceRange range = SlicesOf(r, size);
      EXPECT_EQ(range.first, next);
      next += range.width;
      for (const SliceRange& tree : SubtreesOf(range)) {
        EXPECT_EQ(tree.width & (tree.width - 1), 0);
        EXPECT_EQ(tree.first % tree.width, 0);
      }
      EXPECT_LE(SubtreesOf(range).size(), (size & (size - 1)) == 0 ? 1u : 2u);
    }
    EXPECT_EQ(next, kSlices);
  }
}

TEST(CanonicalSum, RangesAreCutIntoTheLargestAlignedSubtrees) {
  EXPECT_THAT(SubtreesOf({2, 3}), ElementsAre(SliceRange{2, 2}, SliceRange{4, 1}));
  EXPECT_THAT(SubtreesOf({5, 3}), ElementsAre(SliceRange{5, 1}, SliceRange{6, 2}));
  EXPECT_THAT(SubtreesOf({0, 8}), ElementsAre(SliceRange{0, 8}));
  EXPECT_THAT(SubtreesOf({1, 2}), ElementsAre(SliceRange{1, 1}, SliceRange{2, 1}));
}

TEST(CanonicalSum, RefusesPartialsOfAnotherLength) {
  InProcessGroup group(1);
  const auto alone = group.MakeCommunicator(0);
  std::vector<float> partials(3), sum(4);
  const Status status = CanonicalSum(*alone, partials, sum, INT64_MAX);
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("of 4 elements has 1 subtrees"));
}

TEST(CanonicalSum, RefusesMoreRanksThanSlices) {
  InProcessGroup group(9);
  const auto rank = group.MakeCommunicator(0);
  std::vector<float> data(4);
  const Status status = CanonicalSum(*rank, data, data, INT64_MAX);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("8 slices, the group 9 ranks"));
}

}  // namespace
}  // namespace reprise::parallel
