// A worker's side of replication: offers, appends, releases and queries to stores, in order, over a
// stream of its own to each store, and what the stores answer. Mirrors kvstore/stream's
// ReplicaClient, over real bytes. Owned by its worker; one thread.
//
// Invariants:
// 1. What is sent to one store over one stream arrives in order, each once, or the store is lost.
// 2. Every query is answered once.
// 3. A store that leaves an append unanswered for too long is lost, unless this process stood
//    still.
#ifndef REPRISE_TESTS_SIMULATION_REPLICA_CLIENT_H_
#define REPRISE_TESTS_SIMULATION_REPLICA_CLIENT_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "kvstore/node/store_core.h"
#include "kvstore/stream/tail.h"
#include "tests/simulation/context.h"

namespace reprise::sim {

class SimStore;

struct ReplicaStats {
  uint64_t appends = 0;
  uint64_t queries = 0;
  uint64_t lost = 0;
};

class ReplicaClient {
 public:
  using HeldHandler = std::function<void(const NodeKey&, std::vector<kv::HeldRows>)>;
  using LostHandler = std::function<void(const NodeKey&, const Status&)>;
  using QueryDone = std::function<void(const Status&, std::vector<kv::TailState>)>;

  ReplicaClient(Context& context, NodeKey self, Pid pid, HeldHandler held, LostHandler lost);

  void Offer(const NodeKey& store, kv::StoreCore::Offer offer);
  void Append(const NodeKey& store, std::vector<kv::TailEntry> entries, std::vector<uint8_t> rows);
  void Release(const NodeKey& store, const RequestKey& request);
  void Query(const NodeKey& store, const RequestKey& request, TimeNs timeout, QueryDone done);
  // By verdict.
  void GiveUp(const NodeKey& store, const Status& why);

  // The store's answers. `append`: the latest taken, 0: none.
  void OnHeld(StreamId stream, uint64_t append, std::vector<kv::HeldRows> held);
  void OnStates(StreamId stream, uint64_t query, const Status& status,
                std::vector<kv::TailState> states);

  const NodeKey& key() const { return self_; }
  Pid pid() const { return pid_; }
  size_t queries() const { return queries_.size(); }
  const ReplicaStats& stats() const { return stats_; }

 private:
  struct Link {
    StreamId stream = 0;
    SimStore* store = nullptr;
    uint64_t last_append = 0;
    std::deque<uint64_t> unanswered;
    bool holds_replicas = false;
    uint64_t watch = 0;  // number of the silence timer that counts
  };
  struct OpenQuery {
    StreamId stream = 0;
    QueryDone done;
  };
  Link* Open(const NodeKey& store);
  void Send(const Link& link, const char* kind, uint64_t digest, std::function<void()> deliver);
  void WatchSilence(const NodeKey& store);
  void OnBroken(const NodeKey& store, StreamId stream);
  void Drop(const NodeKey& store, const Status& why);
  void Answer(uint64_t query, const Status& status, std::vector<kv::TailState> states);

  Context& context_;
  World& world_;
  const NodeKey self_;
  const Pid pid_;
  const HeldHandler held_;
  const LostHandler lost_;
  std::map<NodeKey, Link> links_;
  std::map<uint64_t, OpenQuery> queries_;
  uint64_t next_query_ = 1;
  uint64_t next_watch_ = 1;
  ReplicaStats stats_;
};

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_REPLICA_CLIENT_H_
