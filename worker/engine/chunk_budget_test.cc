#include "worker/engine/chunk_budget.h"

#include <gtest/gtest.h>

namespace reprise::worker {
namespace {

TEST(ChunkBudget, WithoutACostRowsAloneCount) {
  ChunkBudget budget(10, {});
  EXPECT_EQ(budget.Take(1'000'000, 4), 4);
  EXPECT_EQ(budget.Take(0, 0), 0);
  EXPECT_EQ(budget.Take(0, 100), 6);
  EXPECT_TRUE(budget.spent());
  EXPECT_EQ(budget.Take(0, 1), 0);
}

TEST(ChunkBudget, RowsCostMoreTheMoreKeysAreBeforeThem) {
  const ChunkCost cost{.max = 100, .doubles_at = 1'000};
  const auto at = [&](int64_t first) { return ChunkBudget(512, cost).Take(first, 512); };
  EXPECT_EQ(at(0), 95);  // 95 + 95^2 / 2,000 = 99.5
  EXPECT_EQ(at(1'000), 49);
  EXPECT_EQ(at(9'000), 9);
  EXPECT_EQ(at(99'000), 1);
  EXPECT_EQ(at(10'000'000), 1) << "a chunk always goes on";
}

TEST(ChunkBudget, WhatOneChunkLeavesIsTheNexts) {
  ChunkBudget budget(512, {.max = 100, .doubles_at = 1'000});
  EXPECT_EQ(budget.Take(1'000, 24), 24);  // costs 48.3
  EXPECT_EQ(budget.Take(1'000, 100), 25);
  EXPECT_EQ(budget.Take(1'000, 100), 1) << "less is left than it costs";
  EXPECT_TRUE(budget.spent());
  ChunkBudget short_of_rows(8, {.max = 100, .doubles_at = 1'000});
  EXPECT_EQ(short_of_rows.Take(0, 100), 8);
  EXPECT_TRUE(short_of_rows.spent());
}

}  // namespace
}  // namespace reprise::worker
