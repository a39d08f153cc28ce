// Groups against the tables they come from, and what is chosen where prefixes nest.
#include "kernels/cuda/decode_share.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "kernels/cuda/kv_pool.h"
#include "kernels/cuda/numerics.h"

namespace reprise::cuda {
namespace {

constexpr int kPages = kStepLeaf / kPageRows;  // of a leaf

// Rows of a batch, made of prefixes of others and pages of their own.
class Batch {
 public:
  // A row of `keys` whose first `shared` leaves are row `of`'s.
  int32_t Add(int32_t keys, int32_t of = -1, int32_t shared = 0) {
    std::vector<int32_t> pages(kStride, -1);
    const int32_t used = (keys + kPageRows - 1) / kPageRows;
    for (int32_t i = 0; i < used; ++i) {
      pages[static_cast<size_t>(i)] =
          i < shared * kPages ? pages_[static_cast<size_t>(of * kStride + i)] : next_++;
    }
    pages_.insert(pages_.end(), pages.begin(), pages.end());
    keys_.push_back(keys);
    return static_cast<int32_t>(keys_.size()) - 1;
  }
  std::vector<DecodeGroup> Find(int workers = 1, const DecodeSharing& with = {8, 4}) const {
    return FindShared({pages_, kStride, keys_}, 1, workers, with);
  }
  int32_t page(int32_t row, int32_t i) const {
    return pages_[static_cast<size_t>(row * kStride + i)];
  }
  int32_t keys(int32_t row) const { return keys_[static_cast<size_t>(row)]; }

 private:
  static constexpr int kStride = 160;
  std::vector<int32_t> pages_, keys_;
  int32_t next_ = 0;
};

std::vector<int32_t> Range(int32_t first, int32_t end) {
  std::vector<int32_t> rows;
  for (int32_t row = first; row < end; ++row) rows.push_back(row);
  return rows;
}

TEST(DecodeShare, RowsWithOnePrefixAreAGroup) {
  Batch batch;
  batch.Add(2000);  // alone
  const int32_t first = batch.Add(1500);
  for (int i = 0; i < 4; ++i) batch.Add(1400 + 100 * i, first, 5);
  const std::vector<DecodeGroup> found = batch.Find();
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].rows, Range(1, 6));
  EXPECT_EQ(found[0].leaves, 5);
}

TEST(DecodeShare, ALeafThatARowDoesNotFillIsNotShared) {
  Batch batch;
  const int32_t first = batch.Add(6 * kStepLeaf);
  batch.Add(6 * kStepLeaf, first, 6);
  batch.Add(6 * kStepLeaf - 1, first, 6);
  const std::vector<DecodeGroup> found = batch.Find();
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].rows, Range(0, 3));
  EXPECT_EQ(found[0].leaves, 5);
}

TEST(DecodeShare, APageInAnotherPlaceIsNotAPrefix) {
  Batch batch;
  batch.Add(8 * kStepLeaf);
  batch.Add(8 * kStepLeaf);
  EXPECT_TRUE(batch.Find().empty());
}

TEST(DecodeShare, WhatSavesTooLittleIsNotShared) {
  Batch little;
  const int32_t first = little.Add(3 * kStepLeaf);
  little.Add(3 * kStepLeaf, first, 3);
  // Three leaves once instead of twice, for a unit more and two rows' joins.
  EXPECT_TRUE(little.Find().empty());

  Batch batch;
  const int32_t one = batch.Add(9 * kStepLeaf);
  batch.Add(9 * kStepLeaf, one, 9);
  EXPECT_EQ(batch.Find(6).size(), 1U);
  EXPECT_TRUE(batch.Find(7).empty()) << "six leaves saved are none for some of seven workers";
  EXPECT_TRUE(batch.Find(1, {1, 1}).empty()) << "a kernel that cannot";
}

TEST(DecodeShare, ARowThatWouldHaveAUnitToItselfStaysAlone) {
  Batch batch;
  const int32_t first = batch.Add(3000);
  for (int i = 0; i < 8; ++i) batch.Add(3000, first, 10);
  const std::vector<DecodeGroup> found = batch.Find();
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].rows, Range(0, 8));
}

// 16 rows share a prefix, the last 8 of them more.
TEST(DecodeShare, OfNestedPrefixesTheOnesThatSaveMostAreChosen) {
  for (const int32_t more : {4, 20}) {
    Batch batch;
    const int32_t first = batch.Add(32 * kStepLeaf);
    for (int i = 0; i < 7; ++i) batch.Add(32 * kStepLeaf, first, 10);
    const int32_t second = batch.Add(32 * kStepLeaf, first, 10);
    for (int i = 0; i < 7; ++i) batch.Add(32 * kStepLeaf, second, 10 + more);
    const std::vector<DecodeGroup> found = batch.Find();
    ASSERT_EQ(found.size(), 2U) << "no unit has rows of both: apart nothing is lost";
    EXPECT_EQ(found[0].rows, Range(0, 8));
    EXPECT_EQ(found[0].leaves, 10);
    EXPECT_EQ(found[1].rows, Range(8, 16));
    EXPECT_EQ(found[1].leaves, 10 + more);
  }
}

// Whether these two come before the others in the order of pages, or behind them.
TEST(DecodeShare, TwoOfFourRowsThatShareOneLeafMoreStayWithTheOthers) {
  for (const bool before : {true, false}) {
    Batch batch;
    const int32_t first = batch.Add(20 * kStepLeaf);
    batch.Add(20 * kStepLeaf, first, before ? 11 : 10);
    const int32_t third = batch.Add(20 * kStepLeaf, first, 10);
    batch.Add(20 * kStepLeaf, third, before ? 10 : 11);
    const std::vector<DecodeGroup> found = batch.Find();
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].rows, Range(0, 4));
    EXPECT_EQ(found[0].leaves, 10);
  }
}

TEST(DecodeShare, GroupsAreWhatTheTablesSay) {
  std::mt19937 random(3);
  size_t groups = 0;
  for (int round = 0; round < 300; ++round) {
    Batch batch;
    const auto rows = static_cast<int32_t>(2 + random() % 30);
    for (int32_t r = 0; r < rows; ++r) {
      const auto keys = static_cast<int32_t>(random() % (10 * kStepLeaf));
      const int32_t of = r == 0 ? -1 : static_cast<int32_t>(random() % static_cast<uint32_t>(r));
      const int32_t has = r == 0 ? 0 : batch.keys(of) / kStepLeaf;
      batch.Add(keys, of, static_cast<int32_t>(random() % 9) % (has + 1));
    }
    std::vector<int> seen(static_cast<size_t>(rows));
    int32_t before = -1;
    for (const DecodeGroup& group : batch.Find()) {
      ++groups;
      ASSERT_GE(group.rows.size(), 2U);
      ASSERT_GE(group.leaves, 1);
      ASSERT_TRUE(std::is_sorted(group.rows.begin(), group.rows.end()));
      ASSERT_GT(group.rows[0], before);
      before = group.rows[0];
      for (const int32_t row : group.rows) {
        ASSERT_EQ(seen[static_cast<size_t>(row)]++, 0) << "in two groups";
        ASSERT_GE(batch.keys(row), group.leaves * kStepLeaf);
        for (int32_t i = 0; i < group.leaves * kPages; ++i) {
          ASSERT_EQ(batch.page(row, i), batch.page(group.rows[0], i));
        }
      }
    }
  }
  EXPECT_GT(groups, 300U);
}

}  // namespace
}  // namespace reprise::cuda
