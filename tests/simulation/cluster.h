// One history: two gateways, one coordinator or a group of them with etcd, a prefill worker, two
// decode workers and three stores, their clients, and the one who breaks things, all from a seed.
// Owned by the test; one thread.
//
// A history has three parts: requests arrive while faults happen; faults stop and every stream must
// end within kLivenessLimit; then all is quiet and nothing may be held.
#ifndef REPRISE_TESTS_SIMULATION_CLUSTER_H_
#define REPRISE_TESTS_SIMULATION_CLUSTER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/simulation/context.h"
#include "tests/simulation/journal.h"
#include "tests/simulation/sim_clients.h"
#include "tests/simulation/sim_coordinator.h"
#include "tests/simulation/sim_gateway.h"
#include "tests/simulation/sim_store.h"
#include "tests/simulation/sim_worker.h"

namespace reprise::sim {

inline constexpr TimeNs kFaultsEnd = 6 * kSecond;
inline constexpr TimeNs kLivenessLimit = 60 * kSecond;
inline constexpr TimeNs kSettle = 25 * kSecond;
inline constexpr TimeNs kCalmLag = kSecond;

struct RunOptions {
  uint64_t seed = 1;
  Mutation mutation = Mutation::kNone;
  bool verbose = false;
};

// What happened, to be summed over seeds: a run that proves nothing must show.
struct RunTotals {
  JournalTotals journal;
  gateway::SessionCounters sessions;
  FaultTally faults;
  uint64_t runs = 0;
  uint64_t events = 0;
  uint64_t links_failed = 0;
  uint64_t resumes = 0;
  uint64_t attaches = 0;
  uint64_t handles_lost = 0;
  uint64_t clients_left = 0;
  uint64_t stale_leader_refused = 0;
  uint64_t elections = 0;
  uint64_t appended_rows = 0;
  uint64_t replicas_lost = 0;
  uint64_t rebuilds = 0;
  uint64_t fenced = 0;
  uint64_t restored_rows = 0;
  uint64_t replayed_rows = 0;
  uint64_t orphaned = 0;
  uint64_t windows_over = 0;
  uint64_t watermarks_checked = 0;
  uint64_t blocks_sealed = 0;
  uint64_t tails_copied = 0;
  uint64_t damaged_appends = 0;
  uint64_t append_gaps = 0;
  uint64_t stale_appends = 0;
  uint64_t appends_without_room = 0;
  uint64_t orphans_released = 0;
  uint64_t streams_broken = 0;
  uint64_t checksum_failures = 0;
  uint64_t fetches_cancelled = 0;
  uint64_t fetch_hits = 0;
  uint64_t prefix_tokens = 0;
  uint64_t legs_served = 0;
  uint64_t legs_failed = 0;
  uint64_t preemptions = 0;
  uint64_t evictions = 0;
  uint64_t store_hits = 0;
  uint64_t store_evictions = 0;
  uint64_t disk_loads = 0;
  uint64_t disk_failures = 0;
  void Add(const RunTotals& other);
  std::string Text() const;
};

struct RunResult {
  std::optional<std::string> failure;
  uint64_t hash = 0;
  TimeNs ended = 0;  // virtual
  RunTotals totals;
};

class Cluster {
 public:
  explicit Cluster(const RunOptions& options);
  ~Cluster();
  RunResult Run();

 private:
  struct WorkerSlot {
    std::string name;
    WorkerSize size;
    SimWorker* now = nullptr;
  };
  struct StoreSlot {
    std::string name;
    StoreSize size;
    SimDisk disk;
    SimStore* now = nullptr;
  };

  struct GatewaySlot {
    std::string name;
    SimGateway* now = nullptr;
  };

  void StartWorker(WorkerSlot& slot);
  void StartStore(StoreSlot& slot);
  void StartCoordinator(size_t index);
  void StartGateway(GatewaySlot& slot);
  std::vector<SimGateway*> Gateways() const;
  SimCoordinator* Leader() const;
  void Workload();
  ClientRequest DrawRequest(int number);

  void ScheduleFault();
  void OneFault();
  void CrashWorker();
  void CrashStore();
  void CrashGateway();
  template <typename Slot>
  void TakeDown(Slot& slot);
  void DrainWorker();
  void AwaitDrained(WorkerSlot& slot, Pid pid, TimeNs until);
  void CrashCoordinator();
  void Restart(WorkerSlot& slot);
  void Restart(StoreSlot& slot);
  void Restart(GatewaySlot& slot);
  void RestartCoordinator(size_t index);
  void JumpClock();
  std::vector<Pid> Processes() const;
  std::pair<size_t, size_t> TwoOf(const std::vector<Pid>& processes);
  void FreezeSomebody();
  void Partition();
  void BreakOne(const char* kind);
  void BreakKv();
  void BreakLink() { BreakOne("link"); }
  void CancelSomebody() { clients_.CancelSomebody(); }
  void SomebodyLeaves() { clients_.LeaveSomebody(); }
  void StopFaults();

  void Check(Pid pid);
  void CheckWatermark(const worker::Emit& emit, const std::vector<worker::NodeRef>& stores);
  void CheckQuiet();
  void CheckIndex();
  void CheckCalm();
  void Count(const SimWorker& worker);
  void Count(const SimStore& store);
  void Count(const SimGateway& gateway);
  RunResult Result();

  SplitMix64 plan_;  // sizes, workload and faults; the world has its own for the network
  const Faults faults_;
  World world_;
  Network network_;
  Context context_;
  Journal journal_;
  Peers peers_;
  uint64_t next_incarnation_ = 1;
  std::vector<WorkerSlot> workers_;
  std::vector<StoreSlot> stores_;
  std::vector<GatewaySlot> gateways_;
  SimEtcd etcd_;
  SimClients clients_;
  // Every process ever: events of dead ones are skipped, but point to them.
  std::vector<std::unique_ptr<SimWorker>> all_workers_;
  std::vector<std::unique_ptr<SimStore>> all_stores_;
  std::vector<std::unique_ptr<SimCoordinator>> all_coordinators_;
  std::vector<std::unique_ptr<SimGateway>> all_gateways_;
  std::map<Pid, SimWorker*> worker_of_;
  std::map<Pid, SimStore*> store_of_;
  std::vector<std::vector<int32_t>> families_;  // shared beginnings of prompts
  uint64_t emits_ = 0;
  int arrivals_ = 0;  // requests still to be submitted
  RunTotals totals_;
};

// The seed's history from beginning to end.
RunResult RunSeed(const RunOptions& options);

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_CLUSTER_H_
