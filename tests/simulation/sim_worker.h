// A worker process around WorkerCore, as worker/engine runs it: real bytes in every page, the timed
// engine's rows written layer by layer in virtual time, tokens folded from the rows really there.
// Owned by the cluster; one thread.
#ifndef REPRISE_TESTS_SIMULATION_SIM_WORKER_H_
#define REPRISE_TESTS_SIMULATION_SIM_WORKER_H_

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kvstore/block/event_log.h"
#include "tests/simulation/kv_node.h"
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

  // The gateway's stream; `deliver` sends one message back.
  using Deliver = std::function<void(const worker::Emit&)>;
  void OnLinkOpened(StreamId link, Deliver deliver);
  void OnLinkLost(StreamId link);
  void OnSubmit(StreamId link, worker::Submit submit, int64_t deadline_ms);
  void OnCancel(const worker::Cancel& cancel) { Handle(cancel); }

  // A peer's call for a prefill leg; the two answers go back in order.
  struct LegCaller {
    std::function<void()> started;
    std::function<void(const worker::PrefillReply&)> reply;
  };
  void OnPrefill(worker::SubmitPrefill leg, int64_t deadline_ms, LegCaller caller);
  void OnCancelPrefill(const worker::CancelPrefill& cancel) { Handle(cancel); }

  void Check();
  void CheckQuiet();

 private:
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
  void Run(const worker::OfferBlocks& command);
  // Replicas of live sequences are not simulated: nothing is ever acknowledged.
  void Run(const worker::AppendRows& command);
  void Run(const worker::ReleaseReplicas&) {}
  void Run(const worker::QueryTails& command);
  void Run(const worker::Emit& command);

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
  kv::EventReporter reporter_;
  std::map<kv::BlockId, Listed> listed_;
  std::vector<int32_t> pins_;                    // transfers reading each page
  std::vector<bool> unlisted_;                   // page waits for its pins to be quiet
  std::vector<worker::PageId> quiet_;            // to be told to the core
  std::map<worker::FetchId, uint64_t> fetches_;  // core's number -> stream's
  std::map<StreamId, Deliver> links_;
  std::map<RequestKey, StreamId> link_of_;
  std::map<LegKey, LegCaller> legs_served_;
  std::map<LegKey, StreamId> legs_called_;
  std::optional<worker::StepPlan> plan_;
  uint64_t progress_ = 0;
  uint64_t tick_ = 0;
  KvNode stream_;
  ReportLoop reports_;
};

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_SIM_WORKER_H_
