// The worker's side of replication on one lane: offers, appends, releases and queries to stores,
// over connections of their own, and what the stores answer. Owned by the lane; one thread.
//
// Invariants:
// 1. Appends reach a store in the order given, on one connection; each is answered there once.
// 2. A payload is let go only when its transfer is terminal. So a connection given up while
//    payloads are posted on it stays open, unused, until they are: a frozen peer could still read
//    them.
// 3. Unanswered appends per connection stay below limits::kAppendsPerPeerMax and
//    kAppendBytesPerPeerMax.
// 4. Every query is answered exactly once.
#ifndef REPRISE_KVSTORE_STREAM_REPLICA_CLIENT_H_
#define REPRISE_KVSTORE_STREAM_REPLICA_CLIENT_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "kvstore/stream/kv_stream.h"
#include "kvstore/stream/lane_context.h"
#include "kvstore/stream/peer_links.h"

namespace reprise::kv {

class ReplicaClient final : private PeerLinks::User {
 public:
  using HeldHandler = std::function<void(const NodeKey&, std::vector<HeldRows>)>;
  using LostHandler = std::function<void(const NodeKey&, const Status&)>;
  using QueryDone = std::function<void(const Status&, std::vector<TailState>)>;

  explicit ReplicaClient(const LaneContext& context) : context_(context), links_(context, this) {}

  void SetHeldHandler(HeldHandler handler) { on_held_ = std::move(handler); }
  void SetLostHandler(LostHandler handler) { on_lost_ = std::move(handler); }

  void Offer(const PeerAddress& peer, BlockOffer offer);
  void Append(const PeerAddress& store, TailAppend append);
  void Release(const PeerAddress& store, const RequestKey& request);
  void Query(const PeerAddress& store, const RequestKey& request, TimeNs deadline_ns,
             QueryDone done);

  // Answers every query and sends nothing more; idle() holds once nothing is posted.
  void EndAll();
  // By force.
  void CloseLinks();
  bool idle() const { return posted_bytes_ == 0; }

  bool Owns(EndpointId endpoint) { return links_.Find(endpoint) || abandoned_.contains(endpoint); }
  void OnMessage(EndpointId endpoint, const wire::Envelope& envelope);
  void OnMalformed(EndpointId endpoint, const Status& status);
  void OnFailed(EndpointId endpoint, const Status& status);

 private:
  struct Outgoing {
    std::string message;
    uint64_t append_id = 0;                      // with a payload
    std::shared_ptr<const TailPayload> payload;  // null: the message is all
  };
  struct Unanswered {
    uint64_t append_id = 0;
    size_t bytes = 0;
  };
  struct Replica {                 // what a link is used for; gone with the connection
    std::deque<Outgoing> waiting;  // for the handshake
    bool holds_replicas = false;   // its loss is told
    uint64_t last_append = 0;
    std::deque<Unanswered> unanswered;
    size_t unanswered_bytes = 0;
    TimerQueue::Id silence{};
  };
  struct PendingQuery {
    PeerLink* link = nullptr;
    QueryDone done;
    TimerQueue::Id deadline{};
  };

  void OnLinkUp(PeerLink& link) override;
  void OnLinkDown(PeerLink& link, const Status& status) override;

  // Null when the store cannot be reached now; `status` says why.
  PeerLink* Open(const PeerAddress& store, Status* status);
  void TellLost(const NodeKey& store, const Status& status);
  void Answer(const NodeKey& store, const TailAppend& append, const Status& status);
  Status CheckAppend(const TailAppend& append) const;
  bool Queue(PeerLink& link, wire::Message message);
  void Send(PeerLink& link, Outgoing outgoing);
  void Post(EndpointId endpoint, Outgoing outgoing);
  void OnPosted(EndpointId endpoint, size_t bytes, const Status& status);
  void WatchSilence(PeerLink& link);
  void Abandon(PeerLink& link, const Status& status);
  void AnswerQuery(uint64_t query_id, const Status& status, std::vector<TailState> states);
  void Handle(PeerLink& link, const wire::Held& message);
  void Handle(PeerLink& link, wire::TailStates message);

  const LaneContext& context_;
  PeerLinks links_;
  HeldHandler on_held_;
  LostHandler on_lost_;
  std::unordered_map<PeerLink*, Replica> replicas_;
  std::map<uint64_t, PendingQuery> queries_;
  std::unordered_map<EndpointId, size_t> posted_;  // payloads not terminal
  std::unordered_set<EndpointId> abandoned_;       // open only until nothing is posted
  size_t posted_bytes_ = 0;
  uint64_t last_query_ = 0;
  bool ended_ = false;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_REPLICA_CLIENT_H_
