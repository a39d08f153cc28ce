// Deadlines of one event loop, in order. Owned by the loop; one thread.
#ifndef REPRISE_KVSTORE_STREAM_TIMER_QUEUE_H_
#define REPRISE_KVSTORE_STREAM_TIMER_QUEUE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "common/clock.h"

namespace reprise::kv {

class TimerQueue {
 public:
  using Id = std::pair<TimeNs, uint64_t>;  // {0, 0}: none

  Id At(TimeNs when_ns, std::function<void()> function) {
    const Id id{when_ns, ++last_};
    timers_.emplace(id, std::move(function));
    return id;
  }
  // No effect on one that has run.
  void Cancel(Id& id) {
    timers_.erase(id);
    id = {};
  }
  // Runs what is due; returns when the next one is (INT64_MAX: none).
  TimeNs RunDue(TimeNs now_ns) {
    while (!timers_.empty() && timers_.begin()->first.first <= now_ns) {
      auto due = timers_.extract(timers_.begin());
      due.mapped()();
    }
    return timers_.empty() ? INT64_MAX : timers_.begin()->first.first;
  }

 private:
  std::map<Id, std::function<void()>> timers_;
  uint64_t last_ = 0;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_TIMER_QUEUE_H_
