#include "worker/server/gateway_stream.h"

#include <utility>

#include "common/grpc_status.h"
#include "common/limits.h"

namespace reprise::worker {

void GatewayStream::Open() {
  self_ = shared_from_this();
  StartRead(&request_);
}

void GatewayStream::Send(v1::ServeResponse events) {
  const size_t bytes = events.ByteSizeLong();
  last_sent_ns_.store(RealClock().NowNs(), std::memory_order_relaxed);
  bool overflow = false;
  {
    MutexLock lock(mu_);
    if (closed_) return;
    overflow = waiting_bytes_ + bytes > limits::kWorkerStreamBufferBytesMax;
    if (!overflow) {
      waiting_bytes_ += bytes;
      if (!std::exchange(any_waits_, true)) {
        waiting_ = std::move(events);
      } else {
        waiting_.set_progress(events.progress());
        waiting_.set_busy(events.busy());
        for (v1::RequestEvent& event : *events.mutable_events()) {
          *waiting_.add_events() = std::move(event);
        }
      }
      if (write_in_flight_) return;
      write_in_flight_ = true;
      any_waits_ = false;
      writing_ = std::exchange(waiting_, {});
      waiting_bytes_ = 0;
      StartWrite(&writing_);  // under the lock: never after Finish
      return;
    }
  }
  Close(absl::ResourceExhaustedError(absl::StrCat("the gateway does not read: over ",
                                                  limits::kWorkerStreamBufferBytesMax,
                                                  " bytes wait for it")));
}

void GatewayStream::OnWriteDone(bool ok) {
  if (!ok) return Close(absl::UnavailableError("the gateway's stream broke"));
  MutexLock lock(mu_);
  write_in_flight_ = !closed_ && any_waits_;
  if (!write_in_flight_) return;
  any_waits_ = false;
  writing_ = std::exchange(waiting_, {});
  waiting_bytes_ = 0;
  StartWrite(&writing_);
}

void GatewayStream::OnReadDone(bool ok) {
  if (!ok) return Close(absl::OkStatus());
  handlers_.request(shared_from_this(), request_);
  request_.Clear();
  MutexLock lock(mu_);
  if (!closed_) StartRead(&request_);
}

void GatewayStream::Close(const Status& status) {
  {
    MutexLock lock(mu_);
    if (closed_) return;
    closed_ = true;
    Finish(ToGrpc(status));
  }
  handlers_.closed(shared_from_this());
}

void GatewayStream::OnDone() { const auto self = std::move(self_); }

}  // namespace reprise::worker
