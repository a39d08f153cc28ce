// How a role's main and the command line talk: the command line says when to stop, the role says
// where its doors are once it is ready. Any thread.
#ifndef REPRISE_COMMON_ROLE_H_
#define REPRISE_COMMON_ROLE_H_

#include <functional>
#include <stop_token>
#include <string>

#include "common/clock.h"
#include "common/mutex.h"

namespace reprise {

// Set once, waited for by many.
class StopSignal {
 public:
  void Stop() {
    // Whoever waits may destroy the signal before the last callback has run.
    std::stop_source source = source_;
    {
      MutexLock lock(mu_);
      stopped_ = true;
      changed_.NotifyAll();
    }
    source.request_stop();
  }
  bool stopped() const {
    MutexLock lock(mu_);
    return stopped_;
  }
  // True when stopped within `timeout_ns`.
  bool WaitFor(TimeNs timeout_ns) {
    const TimeNs until = RealClock().NowNs() + timeout_ns;
    MutexLock lock(mu_);
    while (!stopped_) {
      const TimeNs left = until - RealClock().NowNs();
      if (left <= 0) return false;
      changed_.WaitFor(mu_, std::chrono::nanoseconds(left));
    }
    return true;
  }
  void Wait() {
    MutexLock lock(mu_);
    while (!stopped_) changed_.Wait(mu_);
  }
  // For what waits elsewhere: callbacks on it run in the thread that stops.
  std::stop_token token() const { return source_.get_token(); }

 private:
  const std::stop_source source_;
  mutable Mutex mu_;
  CondVar changed_;
  bool stopped_ GUARDED_BY(mu_) = false;
};

struct RoleAddresses {
  std::string grpc;
  std::string kv;  // stream listener; empty when the role has none
  std::string metrics;
};

struct RoleControl {
  StopSignal* stop = nullptr;                       // outlives the role
  std::function<void(const RoleAddresses&)> ready;  // called once, when the role serves
};

}  // namespace reprise

#endif  // REPRISE_COMMON_ROLE_H_
