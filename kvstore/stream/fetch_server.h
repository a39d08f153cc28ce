// The serving side of a stream: answers fetches from a SegmentSource, waits for pending layers,
// and keeps every pin until nothing reads its bytes. Owned by the lane that listens; one thread.
//
// Invariants:
// 1. A pin is released when its item is over and none of its payloads is posted. A connection that
//    is not known dead is never closed while payloads are posted on it: the peer could still read.
// 2. Runs of one item are posted in layer order; fetches take turns, one run each.
// 3. Layers are sent under the checksums that a block's source gave, those of a `summed` block
//    never under new ones. From what follows for a part of their heads see part_copy.h; where the
//    bytes no longer give the sum, the item is withdrawn.
// 4. What a fetch wants of a block is posted from where it lies when it is contiguous there; else
//    its strips are gathered, and the gathered bytes are posted.
// 5. Posted bytes stay below the limits, except that every peer may have one run posted, so that a
//    peer that stopped reading never starves the others.
#ifndef REPRISE_KVSTORE_STREAM_FETCH_SERVER_H_
#define REPRISE_KVSTORE_STREAM_FETCH_SERVER_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/limits.h"
#include "kvstore/stream/fences.h"
#include "kvstore/stream/kv_stream.h"
#include "kvstore/stream/lane_context.h"
#include "kvstore/stream/pacer.h"
#include "kvstore/stream/part_copy.h"
#include "kvstore/stream/replica_server.h"
#include "kvstore/stream/rows_pool.h"

namespace reprise::kv {

struct FetchServerOptions {
  size_t inflight_bytes_max = size_t{256} << 20;
  int64_t throttle_bytes_per_s = 0;  // 0: none
};

class FetchServer {
 public:
  // `source` may be null: everything is missing. So may `tails`: appends are refused.
  FetchServer(const LaneContext& context, const FetchServerOptions& options, SegmentSource* source,
              TailSink* tails);

  void Publish(const BlockId& id, uint32_t layers_ready, const std::vector<uint32_t>& checksums);
  void Withdraw(const BlockId& id);
  void FenceRequest(const RequestKey& request) { NoteAttempt(request); }
  void SetOfferHandler(std::function<void(BlockOffer)> handler) { on_offer_ = std::move(handler); }
  // Ends every fetch; idle() holds once nothing is posted.
  void EndAll();
  bool idle() const { return fetches_.empty() && posted_bytes_ == 0; }

  void OnAccepted(EndpointId endpoint);
  bool Owns(EndpointId endpoint) const { return connections_.contains(endpoint); }
  void OnMessage(EndpointId endpoint, wire::Envelope envelope);
  // The rows of an append.
  Sink OnBulk(EndpointId endpoint, const BulkHeader& header, size_t bytes);
  void OnMalformed(EndpointId endpoint, const Status& status);
  void OnFailed(EndpointId endpoint);
  ReplicaServer& replicas() { return replicas_; }

 private:
  struct Connection {
    EndpointId endpoint = 0;
    NodeKey peer;
    bool welcomed = false;
    bool same_format = false;  // else it may only fetch
    bool refused = false;      // told so; nothing it says counts any more
    bool dead = false;         // kept while payloads are posted
    size_t fetches = 0;
    size_t posted_bytes = 0;
    TimerQueue::Id timer{};  // of the handshake, then of the close after a refusal
  };
  struct Item {
    BlockId id;
    SegmentSource::Block block;
    uint32_t layers_sent = 0;  // of the fetch's part: posted or chosen to be
    uint32_t posted = 0;       // runs not terminal yet
    bool over = false;         // sent, missing, or dropped with its fetch
    bool waiting_turn = false;
  };
  struct Fetch {
    // `held`: what the blocks are laid out as.
    Fetch(Connection* c, const wire::Fetch& m, const KvFormat& format, const KvPart& held)
        : connection(c), message(m), view(format, held, m.part) {}
    Connection* const connection;
    const wire::Fetch message;
    const PartView view;               // of what is held
    std::optional<PartCopier> gather;  // unless the view is direct
    std::vector<Item> items;
    std::deque<uint32_t> ready;  // items with layers to send
    size_t open_items = 0;
    size_t posted = 0;  // runs
    bool queued = false;
    bool ended = false;
    TimerQueue::Id deadline{};
  };
  using FetchKey = std::pair<EndpointId, uint64_t>;
  struct Run {
    FetchKey fetch;
    uint32_t item = 0;
    uint32_t first_layer = 0;  // of the format
    uint32_t layers = 0;
  };
  // A run as it is posted.
  struct Load {
    std::span<const uint8_t> bytes;
    std::shared_ptr<RowsPool::Rows> gathered;  // shared with the completion; null: in place
    std::vector<uint32_t> checksums;           // of its segments
  };

  void Handle(Connection& connection, const wire::Hello& hello);
  void Handle(Connection& connection, const wire::Fetch& message);
  void Handle(Connection& connection, const wire::Cancel& message);
  void Handle(Connection& connection, wire::Offer message);
  // Null when the message is not about replicas.
  std::optional<Status> HandleReplica(const Connection& connection, wire::Message& message);
  void Refuse(Connection& connection, const Status& status);
  void CloseWhenQuiet(Connection& connection);
  void ForgetIfQuiet(Connection& connection);

  // Remembers the attempt; a raised one ends the fetches of lower ones.
  Fences::Verdict NoteAttempt(const RequestKey& request);
  bool IsProbe(const wire::Fetch& message) const {
    return message.items.size() == 1 && message.items[0].id == probe_id_;
  }
  SegmentSource::Block FindBlock(const BlockId& id);
  Status Admit(const Connection& connection, const wire::Fetch& message);
  void Open(Fetch& fetch);
  // How many of the part's layers, from its first, are there to be sent.
  uint32_t Ready(const Fetch& fetch, const SegmentSource::Block& block) const;
  void Enqueue(Fetch& fetch, uint32_t item);
  // The next run of the fetch in turn that the limits allow; nullopt: nothing can be posted now.
  std::optional<Run> NextRun();
  std::optional<Run> TakeRun(Fetch& fetch);
  bool MayPost(const Connection& connection, size_t bytes) const;
  void Pump();
  void Post(const Run& run);
  StatusOr<Load> Prepare(const Fetch& fetch, const Run& run);
  StatusOr<Load> Collect(const Fetch& fetch, const Run& run);
  uint32_t ChecksumOf(const Fetch& fetch, const Item& item, uint32_t layer) const;
  // Tells the peer that the item will not come.
  void WithdrawItem(Fetch& fetch, uint32_t item);
  void OnPosted(const Run& run, const Status& status);
  void CloseItem(Fetch& fetch, Item& item);
  void EndFetch(Fetch& fetch);
  void EndFetches(const std::function<bool(const Fetch&)>& which, const Status& status);
  void FinishIfQuiet(Fetch& fetch);
  void Unsubscribe(const Fetch& fetch);

  const LaneContext& context_;
  const FetchServerOptions options_;
  SegmentSource* const source_;
  const size_t run_bytes_max_;
  const size_t peer_bytes_max_;
  std::function<void(BlockOffer)> on_offer_;

  std::unordered_map<EndpointId, std::unique_ptr<Connection>> connections_;
  std::map<FetchKey, std::unique_ptr<Fetch>> fetches_;
  std::map<BlockId, std::vector<std::pair<FetchKey, uint32_t>>> subscribers_;
  std::deque<FetchKey> turns_;  // fetches with something ready
  Fences fences_{limits::kFencedRequestsMax};
  Pacer pacer_;
  ReplicaServer replicas_;
  const BlockId probe_id_;
  std::vector<uint8_t> probe_block_;  // made at the first probe; serves as a block of any part
  HeadSums head_sums_;
  const std::shared_ptr<RowsPool> gathered_;
  bool crossing_ = false;  // a run is on the throttled link
  size_t posted_bytes_ = 0;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_FETCH_SERVER_H_
