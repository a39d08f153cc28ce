// Deadlines of one event loop, in order. Owned by the loop; one thread.
//
// Invariants:
// 1. What is due runs in order of time, then of arming; a cancelled one never.
// 2. A judge that did not run cannot know who was silent: while a judged deadline is pending the
//    loop is woken every kTickNs, and time by which such a tick came late does not count for any.
#ifndef REPRISE_KVSTORE_STREAM_TIMER_QUEUE_H_
#define REPRISE_KVSTORE_STREAM_TIMER_QUEUE_H_

#include <algorithm>
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
  // A deadline another process is judged by: it has `timeout_ns` in which this one runs.
  Id Judge(TimeNs now_ns, TimeNs timeout_ns, std::function<void()> function) {
    if (judged_.empty()) tick_ns_ = now_ns + kTickNs;
    const Id id{now_ns - slept_ns_ + timeout_ns, ++last_};
    judged_.emplace(id, std::move(function));
    return id;
  }
  // No effect on one that has run.
  void Cancel(Id& id) {
    timers_.erase(id);
    judged_.erase(id);
    id = {};
  }
  // Runs what is due; returns when the next one is (INT64_MAX: none).
  TimeNs RunDue(TimeNs now_ns) {
    Run(timers_, now_ns);
    if (!judged_.empty()) {
      if (now_ns - tick_ns_ > kLateTickNs) slept_ns_ += now_ns - tick_ns_;
      if (now_ns >= tick_ns_) tick_ns_ = now_ns + kTickNs;
      Run(judged_, now_ns - slept_ns_);
    }
    TimeNs next_ns = timers_.empty() ? INT64_MAX : timers_.begin()->first.first;
    if (judged_.empty()) return next_ns;
    next_ns = std::min(next_ns, judged_.begin()->first.first + slept_ns_);
    return std::min(next_ns, tick_ns_);
  }

 private:
  using Timers = std::map<Id, std::function<void()>>;

  static constexpr TimeNs kTickNs = 50 * kMillisecond;
  static constexpr TimeNs kLateTickNs = 50 * kMillisecond;  // lateness below this is not excused

  static void Run(Timers& timers, TimeNs now_ns) {
    while (!timers.empty() && timers.begin()->first.first <= now_ns) {
      auto due = timers.extract(timers.begin());
      due.mapped()();
    }
  }

  Timers timers_;
  Timers judged_;        // by a clock that stands still while this process does not run
  TimeNs slept_ns_ = 0;  // for which that clock stood still
  TimeNs tick_ns_ = 0;   // the next one is due; while something is judged
  uint64_t last_ = 0;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_TIMER_QUEUE_H_
