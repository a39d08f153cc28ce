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
#include "worker/engine/timed_executor.h"

namespace reprise::worker {

struct FakeFaults {
  double lose_item = 0;    // of a fetch: DATA_LOSS
  double refuse_call = 0;  // a prefill call fails at once, yet may have arrived
  double duplicate = 0;    // of submits and prefill calls
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
  // Used or quarantined pages of all workers.
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
  void Call(const std::string& caller, CallPrefill call);
  uint8_t* Page(const std::string& name, PageId page);

  const TimeNs delay_max_;
  TimedModel model_;
  SplitMix64 random_;
  TimeNs now_ = 1;
  uint64_t next_action_ = 0;
  std::map<std::pair<TimeNs, uint64_t>, std::function<void()>> actions_;
  std::map<std::string, Worker> workers_;
  std::map<TransferKey, Transfer> transfers_;
  // (prefill worker, key, leg) -> who asked.
  std::map<std::tuple<std::string, RequestKey, uint32_t>, std::string> callers_;
  std::map<RequestKey, Outcome> outcomes_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_CORE_FAKE_CLUSTER_H_
