#include "worker/engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "common/bind_address.h"
#include "common/limits.h"
#include "common/log.h"
#include "kvstore/stream/stream_metrics.h"
#include "worker/engine/engine_metrics.h"

namespace reprise::worker {
namespace {

StatusOr<kv::PeerAddress> ToPeer(const NodeRef& node) {
  ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(node.kv_address));
  return kv::PeerAddress{node.key, at.host, at.port};
}

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
  core.pages = static_cast<int32_t>(std::min<int64_t>(pages, INT32_MAX));
  core.vocab_size = info.vocab_size;
  core.context_tokens = info.context_tokens;
  core.chunk_tokens = core.chunk_tokens <= 0 ? info.chunk_tokens_max
                                             : std::min(core.chunk_tokens, info.chunk_tokens_max);
  std::unique_ptr<Engine> engine(new Engine(std::move(options), std::move(executor), sink));
  RETURN_IF_ERROR(engine->Open());
  RETURN_IF_ERROR(engine->SelfCheck());
  if (metrics != nullptr) engine->AddMetrics(metrics);
  engine->Publish();
  engine->thread_ = Thread("worker_step", [e = engine.get()] { e->Loop(); });
  return engine;
}

Engine::Engine(EngineOptions options, std::unique_ptr<Executor> executor, EngineSink* sink)
    : options_(std::move(options)), sink_(sink), executor_(std::move(executor)) {}

Engine::~Engine() { Stop(); }

void Engine::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    wake_.NotifyAll();
  }
  thread_.Join();
  stream_ = nullptr;
}

Status Engine::Open() {
  ASSIGN_OR_RETURN(memory_,
                   PoolMemory::Map(PageBytes() * static_cast<size_t>(options_.core.pages)));
  executor_->AttachPool(memory_.data(), options_.core.pages);
  directory_ = std::make_unique<BlockDirectory>(
      BlockDirectory::Pool{memory_.data(), PageBytes(), info().kv_format.layers,
                           options_.core.pages},
      [this](PageId page) { static_cast<void>(Post(PageQuiet{page})); });
  ASSIGN_OR_RETURN(stream_, kv::KvStream::Create(options_.stream, directory_.get()));
  RETURN_IF_ERROR(stream_->Register(memory_.data(), memory_.bytes()));
  address_ = stream_->address();
  CoreSettings core = options_.core;
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

EngineStats Engine::stats() const {
  MutexLock lock(mu_);
  return stats_;
}

kv::EventReporter::Part Engine::PrepareEvents() {
  MutexLock lock(events_mu_);
  return event_reporter_.Prepare();
}

bool Engine::OnEventsAnswer(const kv::EventReporter::Answer& answer) {
  MutexLock lock(events_mu_);
  event_reporter_.OnAnswer(answer);
  return event_reporter_.behind();
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
    if (const auto* done = std::get_if<FetchDone>(&event)) fetches_.erase(done->fetch);
    if (const auto* submit = std::get_if<Submit>(&event)) stream_->FenceRequest(submit->key);
    core_->Handle(std::move(event), now);
  }
  const std::optional<TimeNs> tick = core_->NextTick();
  if (tick && *tick <= now) core_->Handle(Tick{}, now);
  CarryOut();
}

void Engine::RunStep(const StepPlan& plan) {
  const TimeNs start = RealClock().NowNs();
  busy_.store(true, std::memory_order_relaxed);
  CarryOut();
  for (const StepPlan::PageCopy& copy : plan.copies) {
    std::memcpy(PageData(copy.to), PageData(copy.from), PageBytes());
  }
  StepDone done;
  done.status = executor_->Run(plan.items, [&](uint32_t layer) { OnLayer(plan, layer); });
  if (done.status.ok()) {
    done.samples.reserve(plan.samples.size());
    for (const StepPlan::Sample& sample : plan.samples) {
      done.samples.push_back(executor_->Sample(sample.item, sample.input));
    }
  } else {
    LogError("step_failed", {{"status", done.status}});
  }
  const TimeNs end = RealClock().NowNs();
  const double ms = MsFromNs(end - start);
  step_ms_ = step_ms_ == 0 ? ms : 0.9 * step_ms_ + 0.1 * ms;
  if (step_seconds_ != nullptr) step_seconds_->Observe(SecondsFromNs(end - start));
  core_->Handle(std::move(done), end);
  busy_.store(false, std::memory_order_relaxed);
}

void Engine::OnLayer(const StepPlan& plan, uint32_t layer) {
  progress_.fetch_add(1, std::memory_order_relaxed);
  if (options_.publish_layers) {
    for (const StepPlan::Completed& block : plan.completes) {
      directory_->SetReady(block.id, layer + 1);
      stream_->Publish(block.id, layer + 1);
    }
  }
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
              if (order.ttft_ns >= 0 && ttft_seconds_ != nullptr) {
                ttft_seconds_->Observe(SecondsFromNs(order.ttft_ns));
              }
              emits.push_back(std::move(order));
            } else if constexpr (std::is_same_v<T, CallPrefill>) {
              sink_->OnCallPrefill(std::move(order));
            } else if constexpr (std::is_same_v<T, ReleasePrefill>) {
              sink_->OnReleasePrefill(std::move(order));
            } else if constexpr (std::is_same_v<T, AcceptPrefill>) {
              sink_->OnAcceptPrefill(order);
            } else if constexpr (std::is_same_v<T, ReplyPrefill>) {
              sink_->OnReplyPrefill(std::move(order));
            } else {
              Do(order);
            }
          },
          command);
    }
  }
  if (!emits.empty()) sink_->OnEmits(std::move(emits));
}

void Engine::Do(StartFetch& command) {
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
  }
  const StatusOr<kv::FetchHandle> handle =
      stream_->Fetch(std::move(spec), std::make_shared<Listener>(this, command.fetch));
  if (!handle.ok()) return fail(handle.status());
  fetches_.emplace(command.fetch, *handle);
}

void Engine::Do(const CancelFetch& command) {
  const auto handle = fetches_.find(command.fetch);
  if (handle != fetches_.end()) stream_->CancelFetch(handle->second);
}

void Engine::Do(const ListBlock& command) {
  if (directory_->List(command)) stream_->Publish(command.id, info().kv_format.layers);
  if (command.state != ListBlock::State::kSealed) return;
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

void Engine::Do(OfferBlocks& command) {
  const StatusOr<kv::PeerAddress> store = ToPeer(command.store);
  if (!store.ok()) return;  // best effort: the blocks stay fetchable here
  kv::BlockOffer offer;
  offer.source = address_;
  offer.fence = {command.key, 0};
  offer.parent = command.parent;
  offer.first_position = command.first_position;
  offer.tenant_salt = std::move(command.tenant);
  offer.tokens = std::move(command.tokens);
  stream_->Offer(*store, std::move(offer));
}

void Engine::Publish() {
  EngineStats stats;
  stats.core = core_->stats();
  stats.pages = core_->pages();
  stats.running = core_->running();
  stats.waiting = core_->waiting();
  stats.queued_prefill_tokens = core_->queued_prefill_tokens();
  stats.step_ms = step_ms_;
  stats.violations = core_->violations();
  MutexLock lock(mu_);
  if (stats.violations > stats_.violations) ReportBug("page_accounting");
  stats_ = stats;
}

}  // namespace reprise::worker
