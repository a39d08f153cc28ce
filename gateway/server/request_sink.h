// What a running request is to those who bring it news: worker links, the Cancel call, shutdown.
// Implementations are shared because news may arrive while the request ends. Any thread.
#ifndef REPRISE_GATEWAY_SERVER_REQUEST_SINK_H_
#define REPRISE_GATEWAY_SERVER_REQUEST_SINK_H_

#include <optional>

#include "common/clock.h"
#include "common/status.h"
#include "gateway/generation/core/session_types.h"
#include "reprise/v1/cluster.pb.h"

namespace reprise::gateway {

class RequestSink {
 public:
  virtual ~RequestSink() = default;

  virtual void OnWorkerEvent(const v1::RequestEvent& event, TimeNs now) = 0;
  // The link with this serial number carries nothing any more.
  virtual void OnLinkLost(uint64_t link, const Status& status, Loss loss) = 0;
  virtual void CancelByClient() = 0;
  virtual void Abort(const Status& status) = 0;
  // The attempt at a worker now, for the coordinator; absent without one.
  virtual std::optional<v1::RequestReport> report() = 0;
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_REQUEST_SINK_H_
