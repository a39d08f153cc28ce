// Several worker cores around in-memory page pools in virtual time: messages and transfers take
// random times, transfers read and write real bytes late, steps compute with the timed executor at
// their end. So a page reused too early shows as wrong tokens. For tests; one thread.
#ifndef REPRISE_WORKER_ENGINE_CORE_FAKE_CLUSTER_H_
#define REPRISE_WORKER_ENGINE_CORE_FAKE_CLUSTER_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "common/random.h"
#include "worker/engine/core/core.h"
#include "worker/engine/core/fake_store.h"
#include "worker/engine/timed_executor.h"

namespace reprise::worker {

struct FakeFaults {
  double lose_item = 0;    // of a fetch: DATA_LOSS
  double refuse_call = 0;  // a prefill call fails at once, yet may have arrived
  double duplicate = 0;    // of submits and prefill calls
  double lose_append = 0;  // and of offers: the store never sees it
  double lose_held = 0;    // a store's word is lost; else some words come twice, or late
  double full_store = 0;   // an append is refused for want of room
  double lose_copy = 0;    // of a page outside the pool: DATA_LOSS
  double fail_copy = 0;    // an order to copy out writes nothing
};

// What came out for one attempt.
struct Outcome {
  std::map<uint32_t, std::vector<BranchToken>> tokens;  // by branch
  std::map<uint32_t, EndReason> ended;
  std::vector<Done> dones;
};

class FakeCluster {
 public:
  explicit FakeCluster(uint64_t seed = 1, TimeNs delay_max_ns = 0);

  // Small defaults: blocks of 4 tokens, 32 pages, chunks of 8.
  CoreSettings Settings(const std::string& name) const;
  void AddWorker(const CoreSettings& settings);
  // A store that keeps what it is told and serves it, in its next life with nothing in it.
  void AddStore(const std::string& name);
  // It answers nobody any more, and the workers hear of it.
  void KillStore(const std::string& name);
  // Every worker hears of all stores that live, as from the coordinator.
  void TellStores();
  NodeRef StoreNode(const std::string& name) const;
  FakeStore& store(const std::string& name) { return *stores_.at(name).core; }
  NodeRef Node(const std::string& name) const;
  WorkerCore& core(const std::string& name) { return *workers_.at(name).core; }
  const TimedModel& model() const { return model_; }

  // An event for a worker, now (and twice, if faults say so).
  void Send(const std::string& worker, Event event);
  void After(TimeNs delay_ns, std::function<void()> action);
  // Runs the earliest thing due; false when nothing is left to happen.
  bool Next();
  void RunToEnd();
  // Until `done`; false if everything came to rest before.
  bool RunUntil(const std::function<bool()>& done);

  TimeNs now() const { return now_; }
  SplitMix64& random() { return random_; }
  Outcome& outcome(const RequestKey& key) { return outcomes_[key]; }
  std::function<void(const Emit&)> on_emit;
  std::function<void(const Command&)> on_command;
  FakeFaults faults;
  // First broken rule seen: accounting, a plan nobody may run, ...; empty: none.
  std::string trouble;
  // Beside the random delay: of a step, and of each page copied out or in.
  TimeNs step_ns = 0;
  TimeNs swap_ns = 0;
  // Sequences that stores hold.
  int64_t HeldSequences() const;
  std::string DescribeSequences() const;
  // Used or quarantined pages of all workers, and slots in use.
  int64_t HeldPages() const;

 private:
  struct Worker {
    std::unique_ptr<WorkerCore> core;
    std::unique_ptr<TimedExecutor> executor;
    std::vector<uint8_t> memory;
    struct Listed {
      PageId page = -1;
      bool ready = false;
    };
    std::map<kv::BlockId, Listed> directory;
    std::map<PageId, int> pins;
    std::map<PageId, bool> retired;  // unlisted while pinned
    struct Copy {
      uint64_t ticket = 0;
      std::vector<uint8_t> bytes;
    };
    std::map<SlotId, Copy> slots;
    TimeNs swapping_until = 0;
  };
  struct Transfer {
    std::string to;
    std::string from;
    StartFetch order;
    std::vector<Status> results;
    std::vector<bool> waiting;  // subscribed, not yet served
    size_t open = 0;
    Status ended;  // cancelled or late: nothing begins any more
  };
  using TransferKey = std::pair<std::string, FetchId>;

  TimeNs Delay() {
    return static_cast<TimeNs>(random_.Below(static_cast<uint64_t>(delay_max_) + 1));
  }
  // When the next message of a worker reaches a store: they stay in order.
  TimeNs Lane(const std::string& worker, const std::string& store);
  void Deliver(const std::string& name, Event event);
  void Pump(const std::string& name);
  void Check(const std::string& name);
  void Execute(const std::string& name, Command command);
  void Run(const std::string& name, StepPlan plan);
  void Begin(const std::string& name, StartFetch order);
  void Serve(const TransferKey& key, size_t item);
  void Settle(const TransferKey& key, size_t item, Status status);
  void EndWaiting(const TransferKey& key, const Status& status);
  void ServeWaiters(const std::string& source, const kv::BlockId& id);
  void Unlist(const std::string& name, const UnlistBlock& command);
  void Unpin(const std::string& name, PageId page);
  void Swap(const std::string& name, const SwapOut& order);
  void Swap(const std::string& name, const SwapIn& order);
  // When the next order of a worker's copies is carried out: one after the other.
  TimeNs SwapDelay(const std::string& name, size_t pages);
  void Call(const std::string& caller, CallPrefill call);
  void Append(const std::string& name, const AppendRows& order);
  void Offer(const std::string& name, const OfferBlocks& order);
  void Query(const std::string& name, const QueryTails& order);
  void Hold(const std::string& worker, const NodeKey& store, const HeldRows& held);
  void Pull(const std::string& name, const OfferBlocks& order, kv::BlockId id, int tries);
  uint8_t* Page(const std::string& name, PageId page);

  TimeNs delay_max_;
  TimedModel model_;
  SplitMix64 random_;
  TimeNs now_ = 1;
  uint64_t next_action_ = 0;
  std::map<std::pair<TimeNs, uint64_t>, std::function<void()>> actions_;
  std::map<std::string, Worker> workers_;
  struct Store {
    std::unique_ptr<FakeStore> core;  // null: dead
    uint64_t incarnation = 7;
  };
  std::map<std::pair<std::string, std::string>, TimeNs> lanes_;
  FakeStore* Alive(const NodeKey& key);
  std::map<std::string, Store> stores_;
  std::map<TransferKey, Transfer> transfers_;
  // (prefill worker, key, leg) -> who asked.
  std::map<std::tuple<std::string, RequestKey, uint32_t>, std::string> callers_;
  std::map<RequestKey, Outcome> outcomes_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_CORE_FAKE_CLUSTER_H_
