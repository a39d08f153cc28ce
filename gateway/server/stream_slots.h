// How many Generate calls are open: entered by each, left when gRPC is done with it, waited for at
// shutdown. Owned by the gateway; any thread.
#ifndef REPRISE_GATEWAY_SERVER_STREAM_SLOTS_H_
#define REPRISE_GATEWAY_SERVER_STREAM_SLOTS_H_

#include <chrono>
#include <cstdint>

#include "common/clock.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/status.h"

namespace reprise::gateway {

class StreamSlots {
 public:
  explicit StreamSlots(int32_t streams_max) : streams_max_(streams_max) {}

  // RESOURCE_EXHAUSTED with a retry hint when full, UNAVAILABLE once closed.
  Status Enter() {
    constexpr int64_t kRetryAfterMs = 1000;
    MutexLock lock(mu_);
    if (closed_) return absl::UnavailableError("the gateway is stopping");
    if (open_ >= streams_max_) {
      return WithRetryAfter(
          absl::ResourceExhaustedError(
              absl::StrCat("this gateway holds ", open_, " streams, the limit is ", streams_max_)),
          kRetryAfterMs);
    }
    ++open_;
    return absl::OkStatus();
  }
  void Leave() {
    MutexLock lock(mu_);
    if (--open_ == 0) empty_.NotifyAll();
  }
  // Refuses newcomers; false when some are still open after `timeout_ns`.
  bool Close(TimeNs timeout_ns) {
    const TimeNs until = RealClock().NowNs() + timeout_ns;
    MutexLock lock(mu_);
    closed_ = true;
    while (open_ > 0) {
      const TimeNs left = until - RealClock().NowNs();
      if (left <= 0) return false;
      empty_.WaitFor(mu_, std::chrono::nanoseconds(left));
    }
    return true;
  }
  int32_t open() const {
    MutexLock lock(mu_);
    return open_;
  }

 private:
  const int32_t streams_max_;
  mutable Mutex mu_;
  CondVar empty_;
  int32_t open_ GUARDED_BY(mu_) = 0;
  bool closed_ GUARDED_BY(mu_) = false;
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_STREAM_SLOTS_H_
