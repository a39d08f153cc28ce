#include "worker/engine/prefix_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace reprise::worker {
namespace {

using Listed = PrefixCache::Listed;

kv::BlockId Id(uint8_t n) {
  kv::BlockId id;
  id.bytes[0] = n;
  return id;
}

TEST(PrefixCache, OnlySealedBlocksAreHits) {
  PrefixCache cache(4);
  cache.Put(Id(1), 0, Listed::kPending);
  EXPECT_EQ(cache.FindSealed(Id(1)), std::nullopt);
  EXPECT_TRUE(cache.listed(0));
  cache.Put(Id(1), 0, Listed::kSealed);
  EXPECT_EQ(cache.FindSealed(Id(1)), 0);
}

TEST(PrefixCache, AForgottenPageIsNoHitAndMayHaveAnotherName) {
  PrefixCache cache(4);
  cache.Put(Id(1), 0, Listed::kSealed);
  cache.Idle(0);
  cache.Forget(0);
  EXPECT_FALSE(cache.Find(Id(1)).has_value());
  EXPECT_EQ(cache.Oldest(), std::nullopt);
  EXPECT_FALSE(cache.listed(0));
  cache.Put(Id(2), 0, Listed::kPending);
  EXPECT_TRUE(cache.pending(0));
}

TEST(PrefixCache, TheLongestUnusedPageGivesWayFirst) {
  PrefixCache cache(4);
  for (PageId page = 0; page < 3; ++page) {
    cache.Put(Id(static_cast<uint8_t>(page + 1)), page, Listed::kSealed);
    cache.Idle(page);
  }
  cache.Busy(0);
  cache.Idle(0);  // used again: now the youngest
  EXPECT_EQ(cache.Oldest(), 1);
  cache.Forget(1);
  EXPECT_EQ(cache.Oldest(), 2);
  cache.Busy(2);
  EXPECT_EQ(cache.Oldest(), 0);
  cache.Forget(0);
  EXPECT_EQ(cache.Oldest(), std::nullopt);
  EXPECT_THAT(cache.SealedIds(), testing::ElementsAre(Id(3)));
}

}  // namespace
}  // namespace reprise::worker
