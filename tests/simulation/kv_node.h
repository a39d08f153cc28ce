// The KV stream of one simulated process: fetch by content id, layer by layer, with subscription,
// verification, fences, two-sided cancel and pins, over real bytes. Mirrors kvstore/stream. Owned
// by its store or worker; one thread.
//
// Invariants:
// 1. `done` is called exactly once per fetch, and after it nothing writes to its destinations.
// 2. A layer is announced only when its checksum has matched in place.
// 3. A pin is released when no transfer reads its bytes any more; memory that changes before is a
//    failure of the run.
#ifndef REPRISE_TESTS_SIMULATION_KV_NODE_H_
#define REPRISE_TESTS_SIMULATION_KV_NODE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "common/limits.h"
#include "kvstore/block/block_id.h"
#include "kvstore/stream/fences.h"
#include "tests/simulation/context.h"

namespace reprise::sim {

struct KvFound {
  enum class State { kReady, kPending, kMissing };
  State state = State::kMissing;
  uint32_t layers_ready = 0;
  int64_t first_position = 0;
  const uint8_t* data = nullptr;
  bool summed = false;  // layers come with checksums; else they are summed when sent
  std::vector<uint32_t> checksums;
  std::function<void()> unpin;
};

struct KvFetch {
  RequestKey request;  // whom it is for: a later attempt ends it at the source
  struct Item {
    kv::BlockId id;
    int64_t first_position = 0;
    uint8_t* destination = nullptr;
  };
  NodeKey source;
  std::vector<Item> items;
  bool subscribe = false;
  TimeNs timeout = 0;
  std::function<void(size_t item, uint32_t layer, uint32_t checksum)> layer;  // may be null
  std::function<void(const std::vector<Status>&)> done;
};

struct KvStats {
  uint64_t layers_received = 0;
  uint64_t checksum_failures = 0;
  uint64_t cancelled = 0;
  uint64_t timed_out = 0;
  uint64_t lost = 0;
  uint64_t stale_refused = 0;
};

class KvNode {
 public:
  using Find = std::function<KvFound(const kv::BlockId&)>;

  KvNode(Context& context, NodeKey self, Pid pid, Find find);

  uint64_t Fetch(KvFetch fetch);
  void Cancel(uint64_t fetch);
  void Publish(const kv::BlockId& id, uint32_t layers_ready,
               const std::vector<uint32_t>& checksums);
  // An attempt has shown itself here; ends what lower ones fetch. False: it is stale.
  bool NoteAttempt(const RequestKey& request);
  // Told of the attempt of every fetch that is let in.
  void OnFence(std::function<void(const RequestKey&)> handler) { on_fence_ = std::move(handler); }
  void Withdraw(const kv::BlockId& id);

  const NodeKey& key() const { return self_; }
  Pid pid() const { return pid_; }
  size_t fetches() const { return fetches_.size(); }
  size_t serving() const { return served_.size(); }
  const KvStats& stats() const { return stats_; }

 private:
  struct Fetching {
    KvFetch spec;
    StreamId stream = 0;
    KvNode* source = nullptr;
    std::vector<Status> status;  // of each item
    std::vector<bool> ended;
    size_t open = 0;
    bool cancelled = false;
    Status why;  // of the cancel
  };
  struct ServedItem {
    kv::BlockId id;
    int64_t first_position = 0;
    const uint8_t* data = nullptr;
    bool summed = false;
    std::vector<uint32_t> checksums;
    uint32_t ready = 0;
    uint32_t sent = 0;
    uint32_t in_flight = 0;
    bool closed = false;  // nothing more will be sent
    std::function<void()> unpin;
  };
  struct Served {
    KvNode* client = nullptr;
    StreamId stream = 0;
    uint64_t fetch = 0;
    RequestKey request;
    std::vector<ServedItem> items;
  };
  using ServedKey = std::pair<StreamId, uint64_t>;
  struct Segment {
    size_t item = 0;
    uint32_t layer = 0;
    uint32_t checksum = 0;
    std::vector<uint8_t> bytes;
    uint8_t* destination = nullptr;
  };

  // The reading side.
  StreamId StreamTo(KvNode& source);
  void EndCancelled(uint64_t fetch, const Status& why);
  void OnSegment(uint64_t fetch, const Segment& segment);
  void OnItemEnd(uint64_t fetch, size_t item, const Status& status);
  void EndItem(uint64_t id, Fetching& fetch, size_t item, const Status& status);
  void Finish(uint64_t fetch);
  void OnSourceLost(const NodeKey& source);

  // The serving side.
  void OnFetch(StreamId stream, uint64_t fetch, KvNode* client, const KvFetch& spec);
  void RefuseFetch(Served& served, const Status& why);
  void OnCancel(StreamId stream, uint64_t fetch, KvNode* client);
  void OnClientLost(StreamId stream);
  void SendReady(Served& served, size_t item);
  void SendLayer(Served& served, size_t item, uint32_t layer);
  void OnLayerTaken(ServedKey key, size_t item);
  void Close(ServedItem& item);
  void EraseIfClosed(ServedKey key);

  Context& context_;
  World& world_;
  Network& network_;
  const NodeKey self_;
  const Pid pid_;
  const Find find_;
  uint64_t next_fetch_ = 1;
  std::map<uint64_t, Fetching> fetches_;
  std::map<NodeKey, StreamId> streams_;  // to sources
  std::map<ServedKey, Served> served_;
  kv::Fences fences_{limits::kFencedRequestsMax};
  std::function<void(const RequestKey&)> on_fence_;
  KvStats stats_;
};

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_KV_NODE_H_
