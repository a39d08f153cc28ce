// Outgoing connections of one lane: each is made on first use, proves by a handshake that the
// process meant (incarnation) with the right format answers, and is made anew after it broke.
// Owned by the fetching side; one thread.
//
// Invariants:
// 1. OnLinkUp comes once per connection, before any use; OnLinkDown once for every Open that had
//    succeeded, after which the link's endpoint is closed.
// 2. A peer that could not be reached is not tried again before its back-off has passed.
#ifndef REPRISE_KVSTORE_STREAM_PEER_LINKS_H_
#define REPRISE_KVSTORE_STREAM_PEER_LINKS_H_

#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>

#include "kvstore/stream/kv_stream.h"
#include "kvstore/stream/lane_context.h"

namespace reprise::kv {

struct PeerLink {
  PeerAddress address;
  EndpointId endpoint = 0;  // 0: not connected
  bool ready = false;       // the handshake is done
  std::string format;       // of whole blocks there, once ready
  std::set<FetchHandle> fetches;
  bool in_use = false;  // for more than its fetches; reset when the connection ends
  TimerQueue::Id handshake_timer{};
  TimeNs retry_at_ns = 0;
  int failures = 0;   // connection attempts in a row
  Status last_error;  // of the latest one
  uint64_t last_use = 0;
};

class PeerLinks {
 public:
  class User {
   public:
    virtual ~User() = default;
    virtual void OnLinkUp(PeerLink& link) = 0;
    virtual void OnLinkDown(PeerLink& link, const Status& status) = 0;
  };

  enum class Formats { kSame, kConvertible };  // which formats of the peer will do
  PeerLinks(const LaneContext& context, User* user, Formats formats = Formats::kSame)
      : context_(context), user_(user), formats_(formats) {}

  // The link to use, connected or on its way. UNAVAILABLE during back-off or when every one of
  // limits::kPeersMax links is in use.
  StatusOr<PeerLink*> Open(const PeerAddress& address);
  // Null when the endpoint is none of these.
  PeerLink* Find(EndpointId endpoint);
  PeerLink* FindNode(const NodeKey& key);
  PeerLink* AnyOpen() { return by_endpoint_.empty() ? nullptr : by_endpoint_.begin()->second; }
  void OnWelcome(PeerLink& link, const wire::Welcome& welcome);
  // Closes the connection and tells the user.
  void Drop(PeerLink& link, const Status& status);
  // As Drop, but the endpoint stays open and is the caller's.
  void Detach(PeerLink& link, const Status& status);

 private:
  using Key = std::tuple<std::string, uint64_t, std::string, int>;

  StatusOr<PeerLink*> Slot(const PeerAddress& address);
  Status Connect(PeerLink& link);

  const LaneContext& context_;
  User* const user_;
  const Formats formats_;
  std::map<Key, std::unique_ptr<PeerLink>> links_;
  std::unordered_map<EndpointId, PeerLink*> by_endpoint_;
  uint64_t uses_ = 0;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_PEER_LINKS_H_
