#include "worker/engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "common/bind_address.h"
#include "common/failpoint.h"
#include "common/limits.h"
#include "common/log.h"
#include "kvstore/stream/stream_metrics.h"
#include "worker/engine/engine_metrics.h"

namespace reprise::worker {
namespace {

// What an append costs whatever it carries is worth some 150 KB of rows; a crash costs half of the
// rows that wait for company.
constexpr int64_t kAppendBytes = 150'000;
constexpr int64_t kAppendRowsMin = 2;
constexpr int64_t kAppendRowsMax = 4;
constexpr TimeNs kAppendLingerNs = 100 * kMillisecond;  // for each

}  // namespace

class Engine::Listener : public kv::FetchListener {
 public:
  Listener(Engine* engine, FetchId fetch) : engine_(engine), fetch_(fetch) {}
  void OnLayer(size_t, uint32_t, uint32_t) override {}
  void OnDone(const std::vector<Status>& items) override {
    static_cast<void>(engine_->Post(FetchDone{fetch_, items}));
  }

 private:
  Engine* const engine_;  // outlives the stream, and the stream all fetches
  const FetchId fetch_;
};

StatusOr<std::unique_ptr<Engine>> Engine::Start(EngineOptions options,
                                                std::unique_ptr<Executor> executor,
                                                EngineSink* sink, MetricsRegistry* metrics) {
  const ExecutorInfo& info = executor->info();
  RETURN_IF_ERROR(kv::ValidateFormat(info.kv_format));
  const int64_t pages = options.pool_bytes / static_cast<int64_t>(info.kv_format.block_bytes());
  if (pages < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("a KV pool of ", options.pool_bytes, " bytes holds ", pages, " pages of ",
                     info.kv_format.block_bytes(), " bytes, at least 2 are needed"));
  }
  options.stream.format = info.kv_format;
  CoreSettings& core = options.core;
  core.chain.format_digest = info.kv_format.Digest();
  core.chain.block_tokens = static_cast<int>(info.kv_format.block_tokens);
  core.two_forms = info.two_forms;
  core.row_bytes = static_cast<int64_t>(info.kv_format.block_bytes()) / core.chain.block_tokens;
  core.append_rows = std::clamp(kAppendBytes / std::max<int64_t>(core.row_bytes, 1), kAppendRowsMin,
                                kAppendRowsMax);
  core.append_linger_ns = core.append_rows * kAppendLingerNs;
  core.pages = static_cast<int32_t>(std::min<int64_t>(pages, INT32_MAX));
  core.swap_host_slots = SwapTier::Slots(options.swap.host_bytes, info.kv_format);
  core.swap_disk_slots = SwapTier::Slots(options.swap.disk_bytes, info.kv_format);
  if (options.swap.throttle_bytes_per_s > 0) {
    core.swap_bytes_per_s = static_cast<double>(options.swap.throttle_bytes_per_s);
  }
  core.vocab_size = info.vocab_size;
  core.context_tokens = info.context_tokens;
  core.chunk_cost = info.chunk_cost;
  core.chunk_tokens = core.chunk_tokens <= 0 ? info.chunk_tokens_max
                                             : std::min(core.chunk_tokens, info.chunk_tokens_max);
  std::unique_ptr<Engine> engine(new Engine(std::move(options), std::move(executor), sink));
  RETURN_IF_ERROR(engine->Open());
  RETURN_IF_ERROR(engine->SelfCheck());
  if (metrics != nullptr) engine->AddMetrics(metrics);
  engine->Publish();
  engine->prober_->Start();
  engine->executor_->SetTick([e = engine.get()] { e->OnPart(); });
  engine->thread_ = Thread("worker_step", [e = engine.get()] { e->Loop(); });
  return engine;
}

Engine::Engine(EngineOptions options, std::unique_ptr<Executor> executor, EngineSink* sink)
    : options_(std::move(options)), sink_(sink), executor_(std::move(executor)) {
  MutexLock lock(events_mu_);
  for (size_t i = 0; i < options_.coordinators; ++i) event_reporters_.emplace_back(&event_log_);
}

Engine::~Engine() { Stop(); }

void Engine::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    wake_.NotifyAll();
  }
  executor_->Stop();
  thread_.Join();
  if (prober_) prober_->Stop();
  if (replicator_) replicator_->Stop();
  if (swap_) swap_->Stop();
  stream_ = nullptr;
}

Status Engine::Open() {
  ASSIGN_OR_RETURN(
      memory_,
      MappedMemory::Map(PageBytes() * static_cast<size_t>(options_.core.pages), "the KV pool"));
  executor_->AttachPool(memory_.data(), options_.core.pages);
  directory_ = std::make_unique<BlockDirectory>(
      BlockDirectory::Pool{memory_.data(), PageBytes(), info().kv_format.layers,
                           options_.core.pages},
      [this](PageId page) { static_cast<void>(Post(PageQuiet{page})); });
  ASSIGN_OR_RETURN(stream_, kv::KvStream::Create(options_.stream, directory_.get()));
  RETURN_IF_ERROR(stream_->Register(memory_.data(), memory_.bytes()));
  address_ = stream_->address();
  stream_->OnHeld([this](const NodeKey& store, std::vector<kv::HeldRows> held) {
    static_cast<void>(Post(RowsHeld{store, std::move(held)}));
  });
  stream_->OnReplicaLost([this](const NodeKey& store, const Status& status) {
    static_cast<void>(Post(ReplicaLost{store, status}));
  });
  prober_ = std::make_unique<PeerProber>(stream_.get());
  replicator_ = std::make_unique<Replicator>(
      Replicator::Pool{memory_.data(), info().kv_format}, stream_.get(),
      [this](Event event) { static_cast<void>(Post(std::move(event))); });
  if (options_.core.swap_host_slots + options_.core.swap_disk_slots > 0) {
    ASSIGN_OR_RETURN(swap_, SwapTier::Create(options_.swap, {memory_.data(), info().kv_format},
                                             [this](Event event) {
                                               static_cast<void>(Post(std::move(event)));
                                             }));
  }
  CoreSettings core = options_.core;
  core.stopwatch = &RealClock();
  core.cpu_stopwatch = &ThreadCpuClock();
  core.self.key = options_.stream.self;
  core.self.kv_address = HostPort{address_.host, static_cast<uint16_t>(address_.port)}.ToString();
  core_ = std::make_unique<WorkerCore>(std::move(core));
  return absl::OkStatus();
}

void Engine::AddMetrics(MetricsRegistry* metrics) {
  step_seconds_ = &metrics->AddHistogram("reprise_worker_step_seconds", "Time of one step.", {},
                                         LatencyBuckets());
  ttft_seconds_ = &metrics->AddHistogram("reprise_worker_ttft_seconds",
                                         "From submission to the first token, in this worker.", {},
                                         LatencyBuckets());
  lag_tokens_ = &metrics->AddHistogram("reprise_replication_lag_at_emit_tokens",
                                       "Rows beyond the watermark when tokens went out.", {},
                                       {0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256, 1024});
  const auto phase = [metrics](const char* name) {
    return &metrics->AddHistogram("reprise_recovery_seconds",
                                  "Phases of a resumed attempt in this process.", {{"phase", name}},
                                  LatencyBuckets());
  };
  restore_seconds_ = phase("restore");
  replay_seconds_ = phase("replay");
  RegisterEngineMetrics(*this, *metrics);
  kv::AddStreamMetrics(metrics, stream_.get());
}

Status Engine::Post(Event event) {
  const bool refusable =
      std::holds_alternative<Submit>(event) || std::holds_alternative<SubmitPrefill>(event);
  MutexLock lock(mu_);
  if (refusable && mailbox_.size() >= limits::kWorkerMailboxMax) {
    return absl::ResourceExhaustedError(absl::StrCat("the worker is behind: ", mailbox_.size(),
                                                     " events wait, the limit is ",
                                                     limits::kWorkerMailboxMax));
  }
  if (mailbox_.empty()) wake_.NotifyAll();
  mailbox_.push_back(std::move(event));
  return absl::OkStatus();
}

bool Engine::AwaitDrained(TimeNs until_ns) {
  MutexLock lock(mu_);
  while (!stats_.draining || !stats_.idle || !mailbox_.empty()) {
    const TimeNs left = until_ns - RealClock().NowNs();
    if (left <= 0) return false;
    drained_.WaitFor(mu_, std::chrono::nanoseconds(std::min(left, 60 * kMinute)));
  }
  return true;
}

EngineStats Engine::stats() const {
  MutexLock lock(mu_);
  return stats_;
}

Status Engine::health() const {
  if (prober_->Stuck()) {
    return absl::UnavailableError(
        absl::StrCat("the KV stream has not carried a block of this node's own for ",
                     PeerProber::kStuckRounds, " probes"));
  }
  MutexLock lock(mu_);
  return executor_status_;
}

kv::EventReporter::Part Engine::PrepareEvents(size_t index) {
  MutexLock lock(events_mu_);
  return event_reporters_[index].Prepare();
}

bool Engine::OnEventsAnswer(size_t index, const kv::EventReporter::Answer& answer) {
  MutexLock lock(events_mu_);
  event_reporters_[index].OnAnswer(answer);
  return event_reporters_[index].behind();
}

// The step thread ------------------------------------------------------------------------------

void Engine::Loop() {
  bool progressed = false;
  while (WaitForWork(!progressed)) {
    HandleEvents();
    const std::optional<StepPlan> plan = core_->PlanStep(RealClock().NowNs());
    progressed = plan.has_value();
    if (plan) {
      RunStep(*plan);
    } else {
      // Evicted pages that are quiet already make room for a plan at once.
      const uint64_t evicted = core_->stats().evictions;
      MutexLock lock(mu_);
      progressed = evicted != stats_.core.evictions;
    }
    CarryOut();
    Publish();
  }
}

bool Engine::WaitForWork(bool may_block) {
  if (may_block) next_tick_ = core_->NextTick().value_or(INT64_MAX);
  MutexLock lock(mu_);
  while (may_block && mailbox_.empty() && !stopping_) {
    const TimeNs left = next_tick_ - RealClock().NowNs();
    if (left <= 0) break;
    if (next_tick_ == INT64_MAX) {
      wake_.Wait(mu_);
    } else {
      wake_.WaitFor(mu_, std::chrono::nanoseconds(std::min(left, 60 * kMinute)));
    }
  }
  return !stopping_;
}

void Engine::HandleEvents() {
  std::vector<Event> events;
  {
    MutexLock lock(mu_);
    events.swap(mailbox_);
  }
  const TimeNs now = RealClock().NowNs();
  for (Event& event : events) {
    Notice(event);
    const uint64_t lost = core_->stats().replicas_lost;
    core_->Handle(std::move(event), now);
    if (core_->stats().replicas_lost != lost) {
      LogWarning("replicas_lost", {{"replicas", core_->stats().replicas_lost - lost}});
    }
  }
  const std::optional<TimeNs> tick = core_->NextTick();
  if (tick && *tick <= now) core_->Handle(Tick{}, now);
  CarryOut();
}

// What the engine itself does about an event, before the core.
void Engine::Notice(const Event& event) {
  if (const auto* done = std::get_if<FetchDone>(&event)) {
    const auto fetch = fetches_.find(done->fetch);
    if (fetch == fetches_.end()) return;
    if (fetch->second.restore) Failpoint("worker.restore.arrived");
    fetches_.erase(fetch);
  } else if (const auto* submit = std::get_if<Submit>(&event)) {
    Failpoint("worker.submit");
    stream_->FenceRequest(submit->key);
  } else if (std::holds_alternative<RowsHeld>(event)) {
    Failpoint("worker.held");
  } else if (std::holds_alternative<Attach>(event)) {
    Failpoint("worker.attach");
  } else if (std::holds_alternative<Drain>(event)) {
    Failpoint("worker.drain");
  } else if (const auto* live = std::get_if<LiveStores>(&event)) {
    prober_->SetPeers(live->stores);
  }
}

void Engine::RunStep(const StepPlan& plan) {
  const TimeNs start = RealClock().NowNs();
  busy_.store(true, std::memory_order_relaxed);
  CarryOut();
  for (const StepPlan::PageCopy& copy : plan.copies) {
    std::memcpy(PageData(copy.to), PageData(copy.from), PageBytes());
    executor_->OnPagesReplaced({&copy.to, 1});
  }
  StepDone done;
  done.status = executor_->RunAndSample(
      plan.items, plan.samples, [&](uint32_t layer) { OnLayer(plan, layer); }, &done.samples);
  if (absl::IsUnavailable(done.status) || absl::IsFailedPrecondition(done.status)) {
    return LoseExecutor(done.status);
  }
  if (!done.status.ok()) LogError("step_failed", {{"status", done.status}});
  if (plan.decode_rows > 0) Failpoint("worker.step.done");
  const TimeNs end = RealClock().NowNs();
  const double ms = MsFromNs(end - start);
  step_ms_ = step_ms_ == 0 ? ms : 0.9 * step_ms_ + 0.1 * ms;
  if (step_seconds_ != nullptr) step_seconds_->Observe(SecondsFromNs(end - start));
  core_->Handle(std::move(done), end);
  busy_.store(false, std::memory_order_relaxed);
}

// No request is told: to them this is a crash, after which others go on. The step thread stays
// where it is, busy and without progress, until the process ends.
void Engine::LoseExecutor(const Status& why) {
  {
    MutexLock lock(mu_);
    if (stopping_) return;
  }
  LogError("executor_lost", {{"status", why}});
  MutexLock lock(mu_);
  executor_status_ = absl::UnavailableError(absl::StrCat("the executor is lost: ", why.message()));
  while (!stopping_) wake_.Wait(mu_);
}

void Engine::OnLayer(const StepPlan& plan, uint32_t layer) {
  if (options_.publish_layers) {
    for (const StepPlan::Completed& block : plan.completes) {
      stream_->Publish(
          block.id, layer + 1,
          directory_->SetReady(block.id, layer + 1, executor_->SegmentPart(block.page, layer)));
    }
    if (!plan.completes.empty()) Failpoint("worker.leg.layer");
  }
  if (plan.decode_rows > 0) Failpoint("worker.step.layer");
  OnPart();
}

void Engine::OnPart() {
  progress_.fetch_add(1, std::memory_order_relaxed);
  bool events = false;
  {
    MutexLock lock(mu_);
    events = !mailbox_.empty();
  }
  if (events) HandleEvents();
}

void Engine::CarryOut() {
  std::vector<Emit> emits;
  for (auto commands = core_->TakeCommands(); !commands.empty(); commands = core_->TakeCommands()) {
    for (Command& command : commands) {
      std::visit(
          [&](auto& order) {
            using T = std::decay_t<decltype(order)>;
            if constexpr (std::is_same_v<T, Emit>) {
              Observe(order);
              emits.push_back(std::move(order));
            } else if constexpr (std::is_same_v<T, CallPrefill>) {
              Failpoint("worker.leg.call");
              sink_->OnCallPrefill(std::move(order));
            } else if constexpr (std::is_same_v<T, ReleasePrefill>) {
              sink_->OnReleasePrefill(std::move(order));
            } else if constexpr (std::is_same_v<T, AcceptPrefill>) {
              sink_->OnAcceptPrefill(order);
            } else if constexpr (std::is_same_v<T, ReplyPrefill>) {
              Failpoint("worker.leg.reply");
              sink_->OnReplyPrefill(std::move(order));
            } else if constexpr (std::is_constructible_v<Replicator::Order, T>) {
              const TimeNs start = RealClock().NowNs();
              const TimeNs cpu_start = ThreadCpuClock().NowNs();
              replicator_->Send(std::move(order));
              replicas_ns_ += RealClock().NowNs() - start;
              replicas_cpu_ns_ += ThreadCpuClock().NowNs() - cpu_start;
            } else if constexpr (std::is_constructible_v<SwapTier::Order, T>) {
              if constexpr (std::is_same_v<T, SwapIn>) {
                for (const SwapItem& item : order.items) {
                  executor_->OnPagesReplaced({&item.page, 1});
                }
              }
              swap_->Send(std::move(order));
            } else {
              Do(order);
            }
          },
          command);
    }
  }
  if (emits.empty()) return;
  sink_->OnEmits(std::move(emits));
  Failpoint("worker.emit");
}

void Engine::Observe(const Emit& emit) {
  if (ttft_seconds_ == nullptr) return;
  if (emit.ttft_ns >= 0) ttft_seconds_->Observe(SecondsFromNs(emit.ttft_ns));
  if (emit.lag >= 0) lag_tokens_->Observe(static_cast<double>(emit.lag));
  if (!emit.recovery) return;
  restore_seconds_->Observe(SecondsFromNs(emit.recovery->restore_ns));
  replay_seconds_->Observe(SecondsFromNs(emit.recovery->replay_ns));
}

void Engine::Do(StartFetch& command) {
  if (command.restore) Failpoint("worker.restore.fetch");
  const auto fail = [&](const Status& status) {
    const std::vector<Status> items(command.items.size(), status);
    static_cast<void>(Post(FetchDone{command.fetch, items}));
  };
  const StatusOr<kv::PeerAddress> source = ToPeer(command.source);
  if (!source.ok()) return fail(source.status());
  kv::FetchSpec spec;
  spec.source = *source;
  spec.fence = {command.key, command.leg};
  spec.subscribe = command.subscribe;
  spec.timeout_ns = command.timeout_ns;
  for (const StartFetch::Item& item : command.items) {
    spec.items.push_back({item.id, item.first_position, PageData(item.page)});
    executor_->OnPagesReplaced({&item.page, 1});
  }
  const StatusOr<kv::FetchHandle> handle =
      stream_->Fetch(std::move(spec), std::make_shared<Listener>(this, command.fetch));
  if (!handle.ok()) return fail(handle.status());
  fetches_.emplace(command.fetch, OpenFetch{*handle, command.restore});
}

void Engine::Do(const CancelFetch& command) {
  const auto handle = fetches_.find(command.fetch);
  if (handle != fetches_.end()) stream_->CancelFetch(handle->second.handle);
}

void Engine::Do(const ListBlock& command) {
  if (directory_->List(command)) stream_->Publish(command.id, info().kv_format.layers, {});
  if (command.state != ListBlock::State::kSealed) return;
  Failpoint("worker.seal");
  MutexLock lock(events_mu_);
  event_log_.Added(command.id);
}

void Engine::Do(const UnlistBlock& command) {
  const BlockDirectory::Unlisted result = directory_->Unlist(command);
  if (result.was_pending) stream_->Withdraw(command.id);
  if (command.sealed) {
    MutexLock lock(events_mu_);
    event_log_.Removed(command.id);
  }
  if (result.quiet) core_->Handle(PageQuiet{command.page}, RealClock().NowNs());
}

void Engine::Publish() {
  EngineStats stats;
  stats.core = core_->stats();
  stats.pages = core_->pages();
  stats.running = core_->running();
  stats.waiting = core_->waiting();
  stats.queued_prefill_tokens = core_->queued_prefill_tokens();
  stats.step_ms = step_ms_;
  const TimeNs start = RealClock().NowNs();
  const TimeNs cpu_start = ThreadCpuClock().NowNs();
  stats.lag = core_->Lag(start);
  replicas_ns_ += RealClock().NowNs() - start;
  replicas_cpu_ns_ += ThreadCpuClock().NowNs() - cpu_start;
  stats.replicas_ns = stats.core.replication_ns + replicas_ns_;
  stats.replicas_cpu_ns = stats.core.replication_cpu_ns + replicas_cpu_ns_;
  stats.stranded_bytes = core_->stranded_pages() * static_cast<int64_t>(PageBytes());
  stats.can_prefill = core_->can_prefill();
  stats.can_decode = core_->can_decode();
  stats.draining = core_->draining();
  stats.idle = core_->idle() && !core_->step_in_flight();
  stats.swap = core_->swap_use();
  stats.violations = core_->violations();
  prober_->SetIdle(stats.idle);
  MutexLock lock(mu_);
  if (stats.violations > stats_.violations) ReportBug("page_accounting");
  stats_ = stats;
  if (stats.draining && stats.idle) drained_.NotifyAll();
}

}  // namespace reprise::worker
