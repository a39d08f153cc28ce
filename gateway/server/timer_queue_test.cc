#include "gateway/server/timer_queue.h"

#include <gtest/gtest.h>

#include <vector>

namespace reprise::gateway {
namespace {

// Counts its wake-ups; a test waits for them.
class Sleeper final : public TimerQueue::Client {
 public:
  void OnTimer(TimeNs now) override {
    MutexLock lock(mu_);
    woken_.push_back(now);
    changed_.NotifyAll();
  }
  TimeNs WaitForWake(size_t nth) {
    MutexLock lock(mu_);
    while (woken_.size() < nth) changed_.Wait(mu_);
    return woken_[nth - 1];
  }
  size_t wakes() {
    MutexLock lock(mu_);
    return woken_.size();
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::vector<TimeNs> woken_ GUARDED_BY(mu_);
};

TEST(TimerQueue, WakesInOrderOfTimeAndNeverEarly) {
  TimerQueue queue;
  const TimeNs now = RealClock().NowNs();
  std::vector<std::shared_ptr<Sleeper>> sleepers;
  for (int i = 0; i < 20; ++i) sleepers.push_back(std::make_shared<Sleeper>());
  for (int i = 19; i >= 0; --i) {
    queue.Move(queue.NewKey(), TimerQueue::kNone, now + i * kMillisecond,
               sleepers[static_cast<size_t>(i)]);
  }
  for (int i = 0; i < 20; ++i) {
    EXPECT_GE(sleepers[static_cast<size_t>(i)]->WaitForWake(1), now + i * kMillisecond);
  }
}

TEST(TimerQueue, AMovedWakeUpHappensOnceAndACancelledOneNever) {
  TimerQueue queue;
  const TimeNs now = RealClock().NowNs();
  const auto moved = std::make_shared<Sleeper>();
  const auto cancelled = std::make_shared<Sleeper>();
  const auto last = std::make_shared<Sleeper>();
  const uint64_t key = queue.NewKey();
  queue.Move(key, TimerQueue::kNone, now + kMinute, moved);
  queue.Move(key, now + kMinute, now + 5 * kMillisecond, moved);
  const uint64_t other = queue.NewKey();
  queue.Move(other, TimerQueue::kNone, now + 10 * kMillisecond, cancelled);
  queue.Move(other, now + 10 * kMillisecond, TimerQueue::kNone, cancelled);
  queue.Move(queue.NewKey(), TimerQueue::kNone, now + 20 * kMillisecond, last);
  last->WaitForWake(1);
  EXPECT_EQ(moved->wakes(), 1u);
  EXPECT_EQ(cancelled->wakes(), 0u);
}

TEST(TimerQueue, KeepsNobodyAliveAndStopsWithWakeUpsPending) {
  const auto last = std::make_shared<Sleeper>();
  {
    TimerQueue queue;
    const TimeNs now = RealClock().NowNs();
    auto gone = std::make_shared<Sleeper>();
    const std::weak_ptr<Sleeper> watch = gone;
    queue.Move(queue.NewKey(), TimerQueue::kNone, now, gone);
    queue.Move(queue.NewKey(), TimerQueue::kNone, now + 60 * kMinute, gone);
    gone.reset();
    queue.Move(queue.NewKey(), TimerQueue::kNone, now + kMillisecond, last);
    last->WaitForWake(1);
    EXPECT_TRUE(watch.expired());
  }
  EXPECT_EQ(last->wakes(), 1u);
}

}  // namespace
}  // namespace reprise::gateway
