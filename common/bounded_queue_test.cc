#include "common/bounded_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

namespace reprise {
namespace {

TEST(BoundedQueue, KeepsOrderAndRefusesBeyondCapacity) {
  BoundedQueue<int> queue(2);
  EXPECT_EQ(queue.TryPush(1), PushResult::kPushed);
  EXPECT_EQ(queue.TryPush(2), PushResult::kPushed);
  EXPECT_EQ(queue.TryPush(3), PushResult::kFull);
  EXPECT_EQ(queue.size(), 2u);
  EXPECT_EQ(queue.Pop(), 1);
  EXPECT_EQ(queue.TryPush(4), PushResult::kPushed);
  EXPECT_EQ(queue.TryPop(), 2);
  EXPECT_EQ(queue.Pop(kSecond), 4);
  EXPECT_EQ(queue.TryPop(), std::nullopt);
}

TEST(BoundedQueue, LeavesARefusedItemWithItsOwner) {
  BoundedQueue<std::unique_ptr<int>> queue(1);
  EXPECT_EQ(queue.TryPush(std::make_unique<int>(1)), PushResult::kPushed);
  auto item = std::make_unique<int>(2);
  EXPECT_EQ(queue.TryPush(std::move(item)), PushResult::kFull);
  ASSERT_NE(item, nullptr);
  queue.Close();
  EXPECT_EQ(queue.TryPush(std::move(item)), PushResult::kClosed);
  ASSERT_NE(item, nullptr);
}

TEST(BoundedQueue, TimesOut) {
  BoundedQueue<int> queue(1);
  const TimeNs start = RealClock().NowNs();
  EXPECT_EQ(queue.Pop(5 * kMillisecond), std::nullopt);
  EXPECT_GE(RealClock().NowNs() - start, 5 * kMillisecond);
  EXPECT_EQ(queue.Pop(0), std::nullopt);
  ASSERT_EQ(queue.TryPush(1), PushResult::kPushed);
  const TimeNs deadline = RealClock().NowNs() + 5 * kMillisecond;
  EXPECT_EQ(queue.Push(2, deadline), PushResult::kFull);
  EXPECT_GE(RealClock().NowNs(), deadline);
}

TEST(BoundedQueue, DrainsAfterCloseThenFails) {
  BoundedQueue<int> queue(2);
  ASSERT_EQ(queue.TryPush(1), PushResult::kPushed);
  queue.Close();
  EXPECT_EQ(queue.Push(2, INT64_MAX), PushResult::kClosed);
  EXPECT_EQ(queue.Pop(), 1);
  EXPECT_EQ(queue.Pop(), std::nullopt);
  EXPECT_EQ(queue.Pop(INT64_MAX), std::nullopt);
}

TEST(BoundedQueue, CloseWakesBothSides) {
  BoundedQueue<int> empty(1);
  BoundedQueue<int> full(1);
  ASSERT_EQ(full.TryPush(1), PushResult::kPushed);
  std::thread consumer([&] { EXPECT_EQ(empty.Pop(), std::nullopt); });
  std::thread producer([&] { EXPECT_EQ(full.Push(2, INT64_MAX), PushResult::kClosed); });
  empty.Close();
  full.Close();
  consumer.join();
  producer.join();
}

TEST(BoundedQueue, LosesAndDuplicatesNothingAmongManyThreads) {
  constexpr int kPerProducer = 5000;
  constexpr int kProducers = 3;
  BoundedQueue<int> queue(4);
  std::vector<std::atomic<int>> seen(kProducers * kPerProducer);
  std::vector<std::thread> producers;
  std::vector<std::thread> consumers;
  for (int p = 0; p < kProducers; ++p) {
    producers.emplace_back([&, p] {
      for (int i = 0; i < kPerProducer; ++i) {
        ASSERT_EQ(queue.Push(p * kPerProducer + i, INT64_MAX), PushResult::kPushed);
      }
    });
  }
  for (int c = 0; c < 3; ++c) {
    consumers.emplace_back([&] {
      std::vector<int> last(kProducers, -1);
      while (const auto item = queue.Pop()) {
        ++seen[*item];
        EXPECT_GT(*item, last[*item / kPerProducer]);  // each producer's items in order
        last[*item / kPerProducer] = *item;
      }
    });
  }
  for (std::thread& thread : producers) thread.join();
  queue.Close();
  for (std::thread& thread : consumers) thread.join();
  for (const auto& count : seen) ASSERT_EQ(count, 1);
}

}  // namespace
}  // namespace reprise
