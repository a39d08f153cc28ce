// Carries out orders one after the other on a thread of its own, so that whoever gives them pays
// for the hand-over alone. Owned by what carries them out, as its last member; Send and Stop from
// any thread.
//
// Invariants:
// 1. Orders are carried out in the order of the calls.
// 2. Once Stop has been called no further one begins, and SleepUntil returns.
#ifndef REPRISE_WORKER_ENGINE_ORDER_THREAD_H_
#define REPRISE_WORKER_ENGINE_ORDER_THREAD_H_

#include <chrono>
#include <deque>
#include <functional>
#include <utility>

#include "absl/strings/string_view.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "common/thread.h"

namespace reprise::worker {

template <typename Order>
class OrderThread {
 public:
  OrderThread() = default;
  ~OrderThread() { Stop(); }

  // Once, before the first order is looked for.
  void Start(absl::string_view name, std::function<void(Order&)> run) {
    run_ = std::move(run);
    thread_ = Thread(name, [this] { Loop(); });
  }

  void Send(Order order) {
    MutexLock lock(mu_);
    if (stopping_) return;
    if (orders_.empty()) wake_.NotifyAll();
    orders_.push_back(std::move(order));
  }

  // Returns when the order under way is done.
  void Stop() {
    {
      MutexLock lock(mu_);
      stopping_ = true;
      wake_.NotifyAll();
    }
    thread_.Join();
  }

  // For an order under way: until that instant of RealClock(), or Stop.
  void SleepUntil(TimeNs until) {
    MutexLock lock(mu_);
    for (TimeNs left = until - RealClock().NowNs(); left > 0 && !stopping_;
         left = until - RealClock().NowNs()) {
      wake_.WaitFor(mu_, std::chrono::nanoseconds(left));
    }
  }

 private:
  void Loop() {
    for (;;) {
      Order order;
      {
        MutexLock lock(mu_);
        while (orders_.empty() && !stopping_) wake_.Wait(mu_);
        if (stopping_) return;
        order = std::move(orders_.front());
        orders_.pop_front();
      }
      run_(order);
    }
  }

  std::function<void(Order&)> run_;
  Mutex mu_;
  CondVar wake_;
  std::deque<Order> orders_ GUARDED_BY(mu_);
  bool stopping_ GUARDED_BY(mu_) = false;
  Thread thread_;  // last: it uses all of the above
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_ORDER_THREAD_H_
