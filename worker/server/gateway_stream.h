// One gateway's Serve stream: requests in, and all tokens of a step out in one message. Owned by
// itself while the call lasts, shared with the service that routes events to it. Any thread.
//
// Invariants:
// 1. One write is in flight; what comes meanwhile is joined into the next message.
// 2. Unwritten output is bounded: beyond it the stream ends with RESOURCE_EXHAUSTED.
#ifndef REPRISE_WORKER_SERVER_GATEWAY_STREAM_H_
#define REPRISE_WORKER_SERVER_GATEWAY_STREAM_H_

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "common/clock.h"
#include "common/mutex.h"
#include "common/status.h"
#include "reprise/v1/cluster.pb.h"

namespace reprise::worker {

class GatewayStream : public grpc::ServerBidiReactor<v1::ServeRequest, v1::ServeResponse>,
                      public std::enable_shared_from_this<GatewayStream> {
 public:
  struct Handlers {
    std::function<void(const std::shared_ptr<GatewayStream>&, const v1::ServeRequest&)> request;
    // No request comes and no event is taken any more.
    std::function<void(const std::shared_ptr<GatewayStream>&)> closed;
  };
  explicit GatewayStream(Handlers handlers) : handlers_(std::move(handlers)) {}

  void Open();
  // Joined with whatever waits to be written, the newest progress counts; dropped when the stream
  // has ended.
  void Send(v1::ServeResponse events);
  // When anything was last given to Send.
  TimeNs last_sent_ns() const { return last_sent_ns_.load(std::memory_order_relaxed); }
  // Ends the call; the first status counts.
  void Close(const Status& status);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override { Close(absl::CancelledError("the gateway left")); }
  void OnDone() override;

 private:
  const Handlers handlers_;
  std::shared_ptr<GatewayStream> self_;  // from Open to OnDone
  v1::ServeRequest request_;
  v1::ServeResponse writing_;  // of the write in flight

  std::atomic<TimeNs> last_sent_ns_{0};

  Mutex mu_;
  v1::ServeResponse waiting_ GUARDED_BY(mu_);
  bool any_waits_ GUARDED_BY(mu_) = false;
  size_t waiting_bytes_ GUARDED_BY(mu_) = 0;
  bool write_in_flight_ GUARDED_BY(mu_) = false;
  bool closed_ GUARDED_BY(mu_) = false;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_SERVER_GATEWAY_STREAM_H_
