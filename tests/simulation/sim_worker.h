// A worker process around WorkerCore, as worker/engine runs it: real bytes in every page, the timed
// engine's rows written layer by layer in virtual time, tokens folded from the rows really there.
// Owned by the cluster; one thread.
#ifndef REPRISE_TESTS_SIMULATION_SIM_WORKER_H_
#define REPRISE_TESTS_SIMULATION_SIM_WORKER_H_

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "kvstore/block/event_log.h"
#include "tests/simulation/journal.h"
#include "tests/simulation/kv_node.h"
#include "tests/simulation/replica_client.h"
#include "tests/simulation/report_loop.h"
#include "worker/engine/core/core.h"

namespace reprise::sim {

class SimStore;

struct WorkerSize {
  int32_t pages = 128;
  int32_t chunk_tokens = 8;
  bool can_decode = true;
  TimeNs layer_time = 300 * kMicrosecond;
};

// Finds a live process by identity; null when there is none.
struct Peers {
  std::function<class SimWorker*(const NodeKey&)> worker;
  std::function<SimStore*(const NodeKey&)> store;
};

class SimWorker {
 public:
  SimWorker(Context& context, const NodeKey& key, const WorkerSize& size, const Peers& peers);

  Pid pid() const { return pid_; }
  const NodeKey& key() const { return key_; }
  const worker::WorkerCore& core() const { return core_; }
  const KvNode& stream() const { return stream_; }
  const kv::EventLog& events() const { return events_; }
  coordinator::NodeInfo info() const;

  // What goes over a gateway's stream: an event of a request, or none in a heartbeat.
  struct ServeMessage {
    uint64_t progress = 0;
    bool busy = false;
    std::optional<worker::Emit> emit;
  };
  // The gateway's stream; `deliver` sends one message back.
  using Deliver = std::function<void(const ServeMessage&)>;
  void OnLinkOpened(StreamId link, Deliver deliver);
  void OnLinkLost(StreamId link);
  void OnSubmit(StreamId link, worker::Submit submit, int64_t deadline_ms, uint64_t epoch);
  void OnAttach(StreamId link, const worker::Attach& attach, uint64_t epoch);
  void OnCancel(const worker::Cancel& cancel) { Handle(cancel); }
  void OnDetach(const RequestKey& request);

  // A peer's call for a prefill leg; the two answers go back in order.
  struct LegCaller {
    std::function<void()> started;
    std::function<void(const worker::PrefillReply&)> reply;
  };
  void OnPrefill(worker::SubmitPrefill leg, int64_t deadline_ms, LegCaller caller);
  void OnCancelPrefill(const worker::CancelPrefill& cancel) { Handle(cancel); }

  // The oldest row that some replica lacked was this old at the worst moment.
  TimeNs worst_lag() const { return worst_lag_; }

  // By signal or by the coordinator's order.
  void Drain(TimeNs deadline);
  bool drained() const { return core_.draining() && core_.idle() && !core_.step_in_flight(); }

  void Check();
  void CheckQuiet();

 private:
  using ReplicaOrder = std::variant<worker::OfferBlocks, worker::AppendRows,
                                    worker::ReleaseReplicas, worker::QueryTails>;
  struct Listed {
    worker::PageId page = -1;
    int64_t first_position = 0;
    worker::ListBlock::State state = worker::ListBlock::State::kPending;
    uint32_t layers_ready = 0;
  };
  using LegKey = std::pair<RequestKey, uint32_t>;

  uint8_t* PageData(worker::PageId page) {
    return pool_.data() + static_cast<size_t>(page) * context_.block_bytes();
  }
  TimeNs Now() const { return world_.Clock(pid_); }
  bool Obeys(StreamId link, const RequestKey& key, uint64_t epoch);
  void Handle(worker::Event event);
  // Commands, quiet pages and the next step, until nothing is left to do now.
  void Pump();
  bool RunCommands();
  void ArmTick();

  void Run(const worker::StartFetch& command);
  void Run(const worker::CancelFetch& command);
  void Run(const worker::CallPrefill& command);
  void Run(const worker::ReleasePrefill& command);
  void Run(const worker::AcceptPrefill& command);
  void Run(const worker::ReplyPrefill& command);
  void Run(const worker::ListBlock& command);
  void Run(const worker::UnlistBlock& command);
  void Run(const worker::OfferBlocks& command) { QueueReplicaOrder(command); }
  void Run(const worker::AppendRows& command);
  void Run(const worker::SwapOut& command);
  void Run(const worker::SwapIn& command);
  void Run(const worker::ReleaseReplicas& command);
  void Run(const worker::QueryTails& command) { QueueReplicaOrder(command); }
  void Run(const worker::Emit& command);

  // The swap tier's thread: one order after the other.
  void AfterSwap(size_t pages, std::function<void()> done);

  // The replicator thread: one order after the other.
  void QueueReplicaOrder(ReplicaOrder order);
  void NextReplicaOrder();
  void Do(const worker::OfferBlocks& order);
  void Do(const worker::AppendRows& order);
  void Do(const worker::ReleaseReplicas& order);
  void Do(const worker::QueryTails& order);
  std::vector<uint8_t> Pack(const worker::AppendRows& append, std::vector<kv::TailEntry>* entries);
  void PretendOurs(const worker::Submit& submit, kv::TailState* state) const;
  void OnHeld(const NodeKey& store, std::vector<kv::HeldRows> held);
  void Obey(const coordinator::ReportAnswer& answer);
  void Beat(StreamId link);
  void SendTo(StreamId link, std::optional<worker::Emit> emit);
  bool Serves(StreamId link) const;

  void StartStep(worker::StepPlan plan);
  void RunLayer(uint32_t layer);
  void WriteRows(const worker::StepItem& item, uint32_t layer);
  void PublishCompleted(uint32_t layer);
  uint64_t FoldOf(const worker::StepItem& item);
  void EndStep();

  KvFound Find(const kv::BlockId& id);
  void Unpin(worker::PageId page);

  Context& context_;
  World& world_;
  const NodeKey key_;
  const Pid pid_;
  const WorkerSize size_;
  const Peers peers_;
  worker::WorkerCore core_;
  std::vector<uint8_t> pool_;
  kv::EventLog events_;
  std::vector<kv::EventReporter> reporters_;  // by coordinator
  std::map<kv::BlockId, Listed> listed_;
  std::vector<int32_t> pins_;                    // transfers reading each page
  std::vector<bool> unlisted_;                   // page waits for its pins to be quiet
  std::vector<worker::PageId> quiet_;            // to be told to the core
  std::map<worker::FetchId, uint64_t> fetches_;  // core's number -> stream's
  std::map<StreamId, Deliver> links_;
  std::map<RequestKey, StreamId> link_of_;
  std::set<StreamId> beating_;
  std::map<std::string, Digest256> digests_;  // of resume handles, by request id
  std::map<std::string, std::vector<worker::NodeRef>> replica_sets_;  // by request id
  std::map<std::string, worker::Submit> submits_;                     // of the planted bug
  std::deque<ReplicaOrder> replica_orders_;                           // the front is under way
  std::map<worker::AppendId, std::vector<uint8_t>> packing_;  // what the rows were when ordered
  struct SwapSlot {
    uint64_t ticket = 0;
    std::vector<uint8_t> bytes;
  };
  std::map<worker::SlotId, SwapSlot> swap_slots_;
  TimeNs swapping_until_ = 0;
  std::map<LegKey, LegCaller> legs_served_;
  std::map<LegKey, StreamId> legs_called_;
  std::optional<worker::StepPlan> plan_;
  uint64_t progress_ = 0;
  TimeNs worst_lag_ = 0;
  uint64_t tick_ = 0;
  KvNode stream_;
  ReplicaClient replicas_;
  ReportLoop reports_;
};

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_SIM_WORKER_H_
