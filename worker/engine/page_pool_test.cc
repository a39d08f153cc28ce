#include "worker/engine/page_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "common/random.h"

namespace reprise::worker {
namespace {

using State = PagePool::State;

TEST(PagePool, HandsOutEveryPageOnceThenNone) {
  PagePool pool(3);
  EXPECT_EQ(pool.Allocate(), 0);
  EXPECT_EQ(pool.Allocate(), 1);
  EXPECT_EQ(pool.Allocate(), 2);
  EXPECT_EQ(pool.Allocate(), std::nullopt);
  EXPECT_EQ(pool.counts().used, 3);
}

TEST(PagePool, ASharedPageIsFreeOnlyAfterItsLastReference) {
  PagePool pool(1);
  const PageId page = *pool.Allocate();
  pool.Ref(page);
  EXPECT_FALSE(pool.UnrefToFree(page));
  EXPECT_EQ(pool.state(page), State::kUsed);
  EXPECT_TRUE(pool.UnrefToFree(page));
  EXPECT_EQ(pool.state(page), State::kFree);
}

TEST(PagePool, AQuarantinedPageWaitsForEveryHold) {
  PagePool pool(1);
  const PageId page = *pool.Allocate();
  EXPECT_TRUE(pool.UnrefToQuarantine(page, 2));
  pool.Quiet(page);
  EXPECT_EQ(pool.state(page), State::kQuarantined);
  EXPECT_EQ(pool.Allocate(), std::nullopt);
  pool.Quiet(page);
  EXPECT_EQ(pool.Allocate(), page);
}

TEST(PagePool, ACachedPageComesBackByReferenceOrLeavesThroughQuarantine) {
  PagePool pool(1);
  const PageId page = *pool.Allocate();
  EXPECT_TRUE(pool.UnrefToCached(page));
  EXPECT_EQ(pool.counts().cached, 1);
  pool.Ref(page);
  EXPECT_EQ(pool.refs(page), 1);
  EXPECT_TRUE(pool.UnrefToCached(page));
  pool.Evict(page);
  EXPECT_EQ(pool.counts().quarantined, 1);
  pool.Quiet(page);
  EXPECT_EQ(pool.counts().free, 1);
}

TEST(PagePool, ImpossibleCallsAreCountedAndChangeNothing) {
  PagePool pool(2);
  const PageId page = *pool.Allocate();
  pool.Quiet(page);
  pool.Evict(page);
  pool.Ref(1);
  pool.Ref(-1);
  pool.Quiet(7);
  EXPECT_FALSE(pool.UnrefToFree(1));
  EXPECT_FALSE(pool.UnrefToQuarantine(page, 0));
  EXPECT_EQ(pool.violations(), 7u);
  EXPECT_EQ(pool.counts().used, 1);
  EXPECT_TRUE(pool.Conserved());
}

TEST(PagePool, RandomHistoriesConserveEveryPage) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    SplitMix64 random(seed);
    PagePool pool(17);
    for (int step = 0; step < 10'000; ++step) {
      const auto page = static_cast<PageId>(random.Below(17));
      const State before = pool.state(page);
      switch (random.Below(6)) {
        case 0:
          static_cast<void>(pool.Allocate());
          break;
        case 1:
          if (before == State::kUsed || before == State::kCached) pool.Ref(page);
          break;
        case 2:
          if (before == State::kUsed) pool.UnrefToFree(page);
          break;
        case 3:
          if (before == State::kUsed) pool.UnrefToCached(page);
          break;
        case 4:
          if (before == State::kUsed) {
            pool.UnrefToQuarantine(page, 1 + static_cast<int32_t>(random.Below(2)));
          } else if (before == State::kCached) {
            pool.Evict(page);
          }
          break;
        default:
          if (before == State::kQuarantined) pool.Quiet(page);
      }
      ASSERT_TRUE(pool.Conserved()) << "after step " << step;
    }
    EXPECT_EQ(pool.violations(), 0u);
  }
}

}  // namespace
}  // namespace reprise::worker
