// One event loop of a stream: a transport with the fetching and replicating side and, on the lane
// that listens, the serving side. Owned by the KvStream; used on its transport's loop only.
#ifndef REPRISE_KVSTORE_STREAM_STREAM_LANE_H_
#define REPRISE_KVSTORE_STREAM_STREAM_LANE_H_

#include <memory>
#include <optional>

#include "kvstore/stream/fetch_client.h"
#include "kvstore/stream/fetch_server.h"
#include "kvstore/stream/lane_context.h"
#include "kvstore/stream/replica_client.h"
#include "kvstore/transport/transport.h"

namespace reprise::kv {

class StreamLane final : public TransportHandler {
 public:
  // A lane with a server configuration accepts connections.
  struct ServerRole {
    FetchServerOptions options;
    SegmentSource* source = nullptr;
    TailSink* tails = nullptr;
  };
  StreamLane(LaneContext context, const std::optional<ServerRole>& server);

  FetchClient& client() { return client_; }
  ReplicaClient& replicas() { return replicas_; }
  FetchServer* server() { return server_.get(); }  // null without that role

  // Ends every fetch on both sides; asked again and again, true once nothing is outstanding or the
  // time for it is over.
  bool Quiet();

  void OnAccepted(EndpointId endpoint) override;
  void OnMessage(EndpointId endpoint, std::span<const uint8_t> message) override;
  Sink OnBulk(EndpointId endpoint, const BulkHeader& header, size_t bytes) override;
  void OnFailed(EndpointId endpoint, const Status& status) override;
  TimeNs OnWake(TimeNs now_ns) override;

 private:
  TimerQueue timers_;
  LaneContext context_;
  FetchClient client_;
  ReplicaClient replicas_;
  std::unique_ptr<FetchServer> server_;
  std::optional<TimeNs> quiet_deadline_ns_;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_STREAM_LANE_H_
