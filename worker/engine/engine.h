// The worker's engine: the pure core in production. Owns the executor, the pool's memory, the KV
// stream, the replicator, the swap tier, the prober and one step thread that feeds events to the
// core, carries out its commands and runs its steps. Owned by the worker's server.
//
// Threads: Post and the observers from any thread; the sink is called on the step thread only.
// The step thread blocks when nothing can run; while a step runs it handles events between layers.
//
// Invariants:
// 1. Events are handled in the order posted; all tokens of one step reach the sink in one call.
// 2. Bytes of a page change only by the executor, a copy the plan orders, or a fetch or swap the
//    core started into it.
// 3. The stream is gone before the memory it reads and writes.
#ifndef REPRISE_WORKER_ENGINE_ENGINE_H_
#define REPRISE_WORKER_ENGINE_ENGINE_H_

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/mapped_memory.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "common/status.h"
#include "common/thread.h"
#include "kvstore/block/event_log.h"
#include "kvstore/stream/kv_stream.h"
#include "worker/engine/block_directory.h"
#include "worker/engine/core/core.h"
#include "worker/engine/executor.h"
#include "worker/engine/peer_prober.h"
#include "worker/engine/replicator.h"
#include "worker/engine/swap_tier.h"

namespace reprise::worker {

// Where the engine's words to others go. Called on the step thread; must not block.
class EngineSink {
 public:
  virtual ~EngineSink() = default;
  // One step's worth, or what one round of events brought.
  virtual void OnEmits(std::vector<Emit> emits) = 0;
  virtual void OnCallPrefill(CallPrefill call) = 0;
  virtual void OnReleasePrefill(ReleasePrefill release) = 0;
  virtual void OnAcceptPrefill(const AcceptPrefill& accept) = 0;
  virtual void OnReplyPrefill(ReplyPrefill reply) = 0;
};

struct EngineOptions {
  kv::StreamOptions stream;  // self, addresses, devices; the format is the executor's
  int64_t pool_bytes = int64_t{256} << 20;
  SwapOptions swap;
  CoreSettings core;           // limits and times; what the executor and pool decide is filled in
  size_t coordinators = 1;     // that are told of KV events
  bool publish_layers = true;  // false: peers see a block only when it is sealed (benchmarks)
  TimeNs self_check_timeout_ns = 10 * kSecond;
};

// What reports and metrics tell of the engine, at the end of its latest round.
struct EngineStats {
  CoreStats core;
  PagePool::Counts pages;
  int32_t running = 0;
  int32_t waiting = 0;
  int64_t queued_prefill_tokens = 0;
  double step_ms = 0;  // smoothed
  uint64_t violations = 0;
  ReplicationLag lag;
  TimeNs replicas_ns = 0;      // of the step thread, on replicas
  TimeNs replicas_cpu_ns = 0;  // of its processor time
  int64_t stranded_bytes = 0;  // of requests that have ended
  bool can_prefill = true;
  bool can_decode = true;
  bool draining = false;
  bool idle = true;  // nothing accepted is left
  SwapUse swap;
};

class Engine {
 public:
  // Moves a block through its own stream and runs a step before it returns OK. `metrics` may be
  // null; what it is given must not be scraped after the engine is gone.
  static StatusOr<std::unique_ptr<Engine>> Start(EngineOptions options,
                                                 std::unique_ptr<Executor> executor,
                                                 EngineSink* sink, MetricsRegistry* metrics);
  ~Engine();

  // RESOURCE_EXHAUSTED for a Submit or SubmitPrefill when too many events wait; anything else is
  // always taken.
  Status Post(Event event);
  // Ends the step thread and the stream; requests are not answered any more. No scrape of the
  // metrics may be under way or follow.
  void Stop();

  // Waits until a drain has begun and nothing accepted is left; false when that is not so at
  // `until_ns`.
  bool AwaitDrained(TimeNs until_ns);

  const ExecutorInfo& info() const { return executor_->info(); }
  kv::PeerAddress kv_address() const { return address_; }
  EngineStats stats() const;
  uint64_t progress() const { return progress_.load(std::memory_order_relaxed); }
  // How long ago a block went through this node's own stream and was verified, and the peers whose
  // streams did not answer lately.
  int64_t probe_age_ms() const { return prober_->AgeMs(); }
  // OK while this process is of use to anybody. UNAVAILABLE: its stream carries nothing any more,
  // or its executor is lost; only a new process helps.
  Status health() const;
  std::vector<std::string> unreachable() const { return prober_->Unreachable(); }
  bool busy() const { return busy_.load(std::memory_order_relaxed); }

  // KV events for coordinator number `index`; one reporting thread for each.
  kv::EventReporter::Part PrepareEvents(size_t index = 0);
  // True when more waits than the last part carried.
  bool OnEventsAnswer(size_t index, const kv::EventReporter::Answer& answer);

 private:
  class Listener;
  Engine(EngineOptions options, std::unique_ptr<Executor> executor, EngineSink* sink);
  Status Open();
  Status SelfCheck();
  Status CheckStep();
  Status CheckStream();
  Status AwaitSelfCheckPin();
  void AddMetrics(MetricsRegistry* metrics);

  void Loop();
  void LoseExecutor(const Status& why);
  // Waits for events, at most until the next tick; false when stopping.
  bool WaitForWork(bool may_block);
  void HandleEvents();
  void Notice(const Event& event);
  void Observe(const Emit& emit);
  void RunStep(const StepPlan& plan);
  void OnLayer(const StepPlan& plan, uint32_t layer);
  void OnPart();  // of a layer, or its end
  void CarryOut();
  void Do(StartFetch& command);
  void Do(const CancelFetch& command);
  void Do(const ListBlock& command);
  void Do(const UnlistBlock& command);
  void Publish();
  uint8_t* PageData(PageId page) const { return memory_.data() + PageBytes() * size_t(page); }
  size_t PageBytes() const { return executor_->info().kv_format.block_bytes(); }

  const EngineOptions options_;
  EngineSink* const sink_;
  const std::unique_ptr<Executor> executor_;
  MappedMemory memory_;
  std::unique_ptr<BlockDirectory> directory_;
  std::unique_ptr<kv::KvStream> stream_;
  kv::PeerAddress address_;
  std::unique_ptr<Replicator> replicator_;
  std::unique_ptr<SwapTier> swap_;  // null: there are no slots
  std::unique_ptr<PeerProber> prober_;

  // Of the step thread.
  std::unique_ptr<WorkerCore> core_;
  struct OpenFetch {
    kv::FetchHandle handle = 0;
    bool restore = false;
  };
  std::map<FetchId, OpenFetch> fetches_;
  TimeNs next_tick_ = INT64_MAX;
  double step_ms_ = 0;
  TimeNs replicas_ns_ = 0;  // outside the core
  TimeNs replicas_cpu_ns_ = 0;
  Histogram* step_seconds_ = nullptr;
  Histogram* ttft_seconds_ = nullptr;
  Histogram* lag_tokens_ = nullptr;
  Histogram* restore_seconds_ = nullptr;
  Histogram* replay_seconds_ = nullptr;

  std::atomic<uint64_t> progress_{0};
  std::atomic<bool> busy_{false};

  mutable Mutex mu_;
  CondVar wake_;
  CondVar drained_;
  std::vector<Event> mailbox_ GUARDED_BY(mu_);
  bool stopping_ GUARDED_BY(mu_) = false;
  EngineStats stats_ GUARDED_BY(mu_);
  Status executor_status_ GUARDED_BY(mu_);

  mutable Mutex events_mu_;  // never held with mu_
  kv::EventLog event_log_ GUARDED_BY(events_mu_);
  std::deque<kv::EventReporter> event_reporters_ GUARDED_BY(events_mu_);  // by coordinator

  Thread thread_;  // last: it uses all of the above
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_ENGINE_H_
