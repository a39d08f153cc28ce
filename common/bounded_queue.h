// A first-in, first-out queue of fixed capacity between any number of producers and consumers.
// Owned by whoever outlives both sides. Any thread.
//
// 1. An item is moved from only when the push succeeds.
// 2. After Close pushes fail at once; pops drain what is left, then fail.
#ifndef REPRISE_COMMON_BOUNDED_QUEUE_H_
#define REPRISE_COMMON_BOUNDED_QUEUE_H_

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <deque>
#include <optional>
#include <utility>

#include "common/clock.h"
#include "common/mutex.h"

namespace reprise {

enum class PushResult { kPushed, kFull, kClosed };

template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}
  BoundedQueue(const BoundedQueue&) = delete;
  BoundedQueue& operator=(const BoundedQueue&) = delete;

  [[nodiscard]] PushResult TryPush(T&& item) { return Push(std::move(item), INT64_MIN); }

  // Waits for room until `deadline_ns` of RealClock(), then kFull.
  [[nodiscard]] PushResult Push(T&& item, TimeNs deadline_ns) {
    MutexLock lock(mu_);
    while (!closed_ && items_.size() >= capacity_) {
      if (!WaitUntil(not_full_, deadline_ns)) return PushResult::kFull;
    }
    if (closed_) return PushResult::kClosed;
    items_.push_back(std::move(item));
    not_empty_.NotifyOne();
    return PushResult::kPushed;
  }

  // Waits at most `timeout_ns`; empty on timeout, or when closed and drained.
  std::optional<T> Pop(TimeNs timeout_ns) {
    const TimeNs now = RealClock().NowNs();
    const TimeNs deadline_ns = timeout_ns > INT64_MAX - now ? INT64_MAX : now + timeout_ns;
    MutexLock lock(mu_);
    while (items_.empty()) {
      if (closed_ || !WaitUntil(not_empty_, deadline_ns)) return std::nullopt;
    }
    return TakeFront();
  }

  // Waits until an item comes; empty only when closed and drained.
  std::optional<T> Pop() {
    MutexLock lock(mu_);
    while (items_.empty()) {
      if (closed_) return std::nullopt;
      not_empty_.Wait(mu_);
    }
    return TakeFront();
  }

  std::optional<T> TryPop() {
    MutexLock lock(mu_);
    if (items_.empty()) return std::nullopt;
    return TakeFront();
  }

  void Close() {
    MutexLock lock(mu_);
    closed_ = true;
    not_empty_.NotifyAll();
    not_full_.NotifyAll();
  }

  bool closed() const {
    MutexLock lock(mu_);
    return closed_;
  }
  size_t size() const {
    MutexLock lock(mu_);
    return items_.size();
  }
  size_t capacity() const { return capacity_; }

 private:
  // False when the deadline has passed; the caller tests its predicate once more otherwise.
  bool WaitUntil(CondVar& condition, TimeNs deadline_ns) REQUIRES(mu_) {
    if (deadline_ns == INT64_MIN) return false;
    const TimeNs remaining_ns = deadline_ns - RealClock().NowNs();
    if (remaining_ns <= 0) return false;
    // An hour at most: the library adds the timeout to its own clock, which must not overflow.
    condition.WaitFor(mu_, std::chrono::nanoseconds(std::min(remaining_ns, 60 * kMinute)));
    return true;
  }
  T TakeFront() REQUIRES(mu_) {
    T item = std::move(items_.front());
    items_.pop_front();
    not_full_.NotifyOne();
    return item;
  }

  const size_t capacity_;
  mutable Mutex mu_;
  CondVar not_empty_;
  CondVar not_full_;
  std::deque<T> items_ GUARDED_BY(mu_);
  bool closed_ GUARDED_BY(mu_) = false;
};

}  // namespace reprise

#endif  // REPRISE_COMMON_BOUNDED_QUEUE_H_
