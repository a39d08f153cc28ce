#include "kvstore/stream/rows_pool.h"

#include <gtest/gtest.h>

namespace reprise::kv {
namespace {

TEST(RowsPoolTest, RowsThatAreLetGoAreUsedAgain) {
  const auto pool = std::make_shared<RowsPool>(size_t{8} << 20);
  auto first = *pool->Take(40'000);
  EXPECT_EQ(first->bytes().size(), 40'000u);
  const uint8_t* const at = first->bytes().data();
  auto second = *pool->Take(40'000);
  EXPECT_NE(second->bytes().data(), at);
  EXPECT_EQ(pool->idle_bytes(), 0u);
  first = nullptr;
  EXPECT_EQ(pool->idle_bytes(), 65'536u);
  const auto third = *pool->Take(33'000);  // as long when rounded
  EXPECT_EQ(third->bytes().data(), at);
  EXPECT_EQ(third->bytes().size(), 33'000u);
  EXPECT_EQ(pool->idle_bytes(), 0u);
}

TEST(RowsPoolTest, KeepsNoMoreThanItMay) {
  const auto pool = std::make_shared<RowsPool>(100'000);
  auto first = *pool->Take(65'536);
  auto second = *pool->Take(65'536);
  first = nullptr;
  second = nullptr;
  EXPECT_EQ(pool->idle_bytes(), 65'536u);
}

TEST(RowsPoolTest, RowsOutliveThePoolsOwner) {
  auto pool = std::make_shared<RowsPool>(size_t{8} << 20);
  const auto rows = *pool->Take(5);
  pool = nullptr;
  rows->writable()[4] = 7;
  EXPECT_EQ(rows->bytes()[4], 7);
}

}  // namespace
}  // namespace reprise::kv
