// The store's side of replication: takes appends in order into a TailSink, passes releases and
// queries on, and sends what the store answers, gathered per connection and burst of work. Owned by
// the fetch server, whose connections it shares; one thread.
//
// Invariants:
// 1. Appends of a connection reach the sink in the order they were sent, whole, once; each is
//    answered, whatever became of it.
// 2. Bytes received and not taken yet stay below limits::kAppendBytesPerPeerMax a connection and
//    kAppendStagingBytesMax in all; an append beyond is refused before its bytes are pulled.
// 3. A receive buffer is given back only when nothing writes to it any more.
#ifndef REPRISE_KVSTORE_STREAM_REPLICA_SERVER_H_
#define REPRISE_KVSTORE_STREAM_REPLICA_SERVER_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "kvstore/stream/lane_context.h"
#include "kvstore/stream/latest_connections.h"
#include "kvstore/stream/staging_pool.h"
#include "kvstore/stream/tail.h"

namespace reprise::kv {

class ReplicaServer {
 public:
  // `sink` may be null: every append is refused. `note_attempt` hears of every attempt named.
  ReplicaServer(const LaneContext& context, TailSink* sink,
                std::function<void(const RequestKey&)> note_attempt);

  // Of a welcomed connection to `peer`. An error ends the connection as malformed.
  Status OnAppend(EndpointId endpoint, const NodeKey& peer, wire::Append message);
  Status OnRelease(const NodeKey& peer, const wire::Release& message);
  Status OnQuery(EndpointId endpoint, const NodeKey& peer, const wire::QueryTails& message);
  StatusOr<Sink> OnBulk(EndpointId endpoint, const wire::AppendBulk& bulk, size_t bytes);
  // The peer offered blocks of a request: it hears of them.
  Status OnOffered(EndpointId endpoint, const NodeKey& peer);
  void OnFetch(const RequestKey& request);
  void OnGone(EndpointId endpoint);

  void TellHeld(const NodeKey& owner, std::vector<HeldRows> held);
  // Sends the answers gathered since the last call.
  void Flush();

 private:
  struct Incoming {
    enum class State { kAnnounced, kReceiving, kReady };
    wire::Append append;
    State state = State::kReady;
    Status refused;  // instead of being taken
    std::optional<StagingPool::Buffer> staged;
  };
  struct Peer {
    EndpointId endpoint = 0;
    NodeKey key;
    bool gone = false;
    uint64_t last_append = 0;
    uint64_t answered = 0;
    std::deque<Incoming> queue;
    size_t receiving = 0;
    size_t staged_bytes = 0;
    std::vector<HeldRows> held;  // to be told
  };

  // An error for a late word over a connection that a later one of the same peer has replaced.
  StatusOr<Peer*> Known(EndpointId endpoint, const NodeKey& key);
  Status CheckSizes(const wire::Append& message) const;
  void OnReceived(EndpointId endpoint, uint64_t append_id, const Status& status);
  // Takes what is complete at the head of the queue.
  void Drain(Peer& peer);
  std::vector<HeldRows> Take(const Peer& peer, const Incoming& incoming);
  void Stage(Peer& peer, size_t bytes);
  void Unstage(Peer& peer, Incoming& incoming);
  void ForgetIfQuiet(EndpointId endpoint);
  void SendHeld(Peer& peer);

  const LaneContext& context_;
  TailSink* const sink_;
  const std::function<void(const RequestKey&)> note_attempt_;
  std::unordered_map<EndpointId, std::unique_ptr<Peer>> peers_;
  LatestConnections latest_;  // of each peer: the one over which it is told
  std::set<EndpointId> to_tell_;
  StagingPool pool_;
  size_t staged_bytes_ = 0;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_REPLICA_SERVER_H_
