#include "gateway/server/timer_queue.h"

#include <algorithm>

namespace reprise::gateway {

TimerQueue::TimerQueue() : thread_("gw-timer", [this] { Loop(); }) {}

TimerQueue::~TimerQueue() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    changed_.NotifyOne();
  }
  thread_.Join();
}

uint64_t TimerQueue::NewKey() {
  MutexLock lock(mu_);
  return next_key_++;
}

void TimerQueue::Move(uint64_t key, TimeNs from, TimeNs to, std::weak_ptr<Client> client) {
  MutexLock lock(mu_);
  if (from != kNone) due_.erase({from, key});
  if (to == kNone) return;
  const auto it = due_.insert_or_assign({to, key}, std::move(client)).first;
  if (it == due_.begin()) changed_.NotifyOne();
}

void TimerQueue::Loop() {
  while (true) {
    std::weak_ptr<Client> due;
    {
      MutexLock lock(mu_);
      while (true) {
        if (stopping_) return;
        if (due_.empty()) {
          changed_.Wait(mu_);
          continue;
        }
        const TimeNs left = due_.begin()->first.first - RealClock().NowNs();
        if (left <= 0) break;
        changed_.WaitFor(mu_, std::chrono::nanoseconds(std::min(left, 60 * kMinute)));
      }
      due = std::move(due_.begin()->second);
      due_.erase(due_.begin());
    }
    if (const auto client = due.lock()) client->OnTimer(RealClock().NowNs());
  }
}

}  // namespace reprise::gateway
