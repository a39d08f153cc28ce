#include "kvstore/stream/timer_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace reprise::kv {
namespace {

class TimerQueueTest : public testing::Test {
 protected:
  std::function<void()> Note(char name) {
    return [this, name] { ran_ += name; };
  }
  // The loop runs when it asked to, up to `until`.
  void RunUntil(TimeNs until_ns) {
    for (TimeNs next = queue_.RunDue(now_); next <= until_ns; next = queue_.RunDue(now_)) {
      now_ = std::max(next, now_ + 1);
    }
    now_ = until_ns;
    queue_.RunDue(now_);
  }

  TimerQueue queue_;
  TimeNs now_ = kSecond;
  std::string ran_;
};

TEST_F(TimerQueueTest, RunsInOrderOfTimeThenOfArming) {
  queue_.At(now_ + 20, Note('c'));
  queue_.At(now_ + 10, Note('a'));
  queue_.At(now_ + 10, Note('b'));
  TimerQueue::Id cancelled = queue_.At(now_ + 15, Note('x'));
  queue_.Cancel(cancelled);
  EXPECT_EQ(queue_.RunDue(now_), now_ + 10);
  RunUntil(now_ + 30);
  EXPECT_EQ(ran_, "abc");
  EXPECT_EQ(queue_.RunDue(now_), INT64_MAX);
}

TEST_F(TimerQueueTest, AJudgedDeadlineEndsOnTimeWhenTheJudgeRan) {
  queue_.Judge(now_, kSecond, Note('j'));
  RunUntil(now_ + kSecond - 1);
  EXPECT_EQ(ran_, "");
  RunUntil(now_ + 1);
  EXPECT_EQ(ran_, "j");
  EXPECT_EQ(queue_.RunDue(now_), INT64_MAX) << "nothing is judged: no ticks";
}

TEST_F(TimerQueueTest, TimeInWhichTheJudgeDidNotRunDoesNotCount) {
  queue_.Judge(now_, kSecond, Note('j'));
  RunUntil(now_ + 900 * kMillisecond);
  now_ += 10 * kSecond;  // not run; the tick was due within the first 50 ms of it
  RunUntil(now_ + 40 * kMillisecond);
  EXPECT_EQ(ran_, "");
  RunUntil(now_ + 60 * kMillisecond);
  EXPECT_EQ(ran_, "j");
}

TEST_F(TimerQueueTest, SmallLatenessIsNotExcused) {
  queue_.Judge(now_, kSecond, Note('j'));
  RunUntil(now_ + 900 * kMillisecond);
  for (int i = 0; i < 2; ++i) {
    now_ += 100 * kMillisecond;  // 50 after the tick
    queue_.RunDue(now_);
  }
  EXPECT_EQ(ran_, "j");
}

TEST_F(TimerQueueTest, OwnDeadlinesAreKeptHoweverLate) {
  queue_.At(now_ + kSecond, Note('a'));
  queue_.Judge(now_, kSecond, Note('j'));
  now_ += kMinute;
  queue_.RunDue(now_);
  EXPECT_EQ(ran_, "a");
}

TEST_F(TimerQueueTest, AJudgedDeadlineCanBeCancelledAfterItMoved) {
  TimerQueue::Id id = queue_.Judge(now_, kSecond, Note('j'));
  now_ += kMinute;
  queue_.RunDue(now_);
  queue_.Cancel(id);
  RunUntil(now_ + kMinute);
  EXPECT_EQ(ran_, "");
}

}  // namespace
}  // namespace reprise::kv
