// How a role's main and the command line talk: the command line says when to stop, the role says
// where its doors are once it is ready. Any thread.
#ifndef REPRISE_COMMON_ROLE_H_
#define REPRISE_COMMON_ROLE_H_

#include <functional>
#include <string>

#include "common/clock.h"
#include "common/mutex.h"

namespace reprise {

// Set once, waited for by many.
class StopSignal {
 public:
  void Stop() {
    MutexLock lock(mu_);
    stopped_ = true;
    changed_.NotifyAll();
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

 private:
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
