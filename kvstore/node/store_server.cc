#include "kvstore/node/store_server.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/bind_address.h"
#include "common/failpoint.h"
#include "common/log.h"
#include "kvstore/stream/stream_metrics.h"

namespace reprise::kv {
namespace {

// More disk operations are never in flight than StoreCoreOptions::disk_io_max plus the forgets of
// one eviction each.
constexpr size_t kDiskQueueMax = 4096;
// A disk operation that takes longer is a blocked disk.
constexpr int64_t kDiskBlockedMs = 1'500;

}  // namespace

class StoreServer::Listener : public FetchListener {
 public:
  Listener(StoreServer* server, uint64_t fetch) : server_(server), fetch_(fetch) {}
  void OnLayer(size_t item, uint32_t layer, uint32_t checksum) override {
    server_->OnLayer(fetch_, item, layer, checksum);
  }
  void OnDone(const std::vector<Status>& items) override { server_->OnFetchDone(fetch_, items); }

 private:
  StoreServer* const server_;
  const uint64_t fetch_;
};

StatusOr<std::unique_ptr<StoreServer>> StoreServer::Start(const StoreOptions& options,
                                                          const NodeKey& self,
                                                          const v1::ModelInfo& model,
                                                          MetricsRegistry* metrics,
                                                          const Clock& clock) {
  ASSIGN_OR_RETURN(const KvFormat format, ParseFormat(model.format_text()));
  if (absl::string_view(model.format_digest()) !=
      absl::string_view(reinterpret_cast<const char*>(format.Digest().data()), 32)) {
    return absl::FailedPreconditionError("the cluster's format digest is not that of its format");
  }
  std::unique_ptr<StoreServer> server(new StoreServer(options, format, clock));
  RETURN_IF_ERROR(server->OpenTiers());
  RETURN_IF_ERROR(server->OpenStream(options, self));
  server->AddMetrics(metrics);
  server->reaper_ = Thread("reaper", [server = server.get()] { server->ReapLoop(); });
  return server;
}

StoreServer::StoreServer(const StoreOptions& options, const KvFormat& format, const Clock& clock)
    : options_(options),
      format_(format),
      digest_(format.Digest()),
      unpacker_(format),
      clock_(clock) {}

StoreServer::~StoreServer() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    stop_.NotifyAll();
  }
  reaper_.Join();
  owned_stream_ = nullptr;  // ends all fetches, appends and reads first
  if (disk_jobs_ != nullptr) disk_jobs_->Close();
  disk_thread_.Join();
}

StoreCoreOptions StoreServer::CoreOptions() const {
  const auto slots = [this](int64_t bytes) {
    const int64_t count = bytes / static_cast<int64_t>(format_.block_bytes());
    return static_cast<Slot>(std::min<int64_t>(count, INT32_MAX));
  };
  return {.format_digest = digest_,
          .block_tokens = static_cast<int>(format_.block_tokens),
          .layers = format_.layers,
          .segment_bytes = format_.segment_bytes(),
          .memory_slots = slots(options_.memory_bytes),
          .disk_slots = options_.disk_path.empty() ? 0 : slots(options_.disk_bytes),
          .orphan_ns = options_.orphan_ns};
}

Status StoreServer::OpenTiers() {
  const StoreCoreOptions core = CoreOptions();
  if (core.memory_slots < 1) {
    return absl::InvalidArgumentError(absl::StrCat("memory of ", options_.memory_bytes,
                                                   " bytes holds no block; one takes ",
                                                   format_.block_bytes(), " bytes"));
  }
  ASSIGN_OR_RETURN(arena_,
                   MappedMemory::Map(static_cast<size_t>(core.memory_slots) * format_.block_bytes(),
                                     "the store's slots"));
  if (core.disk_slots > 0) {
    ASSIGN_OR_RETURN(disk_, DiskFile::Open({.path = options_.disk_path,
                                            .format_digest = digest_,
                                            .block_bytes = format_.block_bytes(),
                                            .layers = format_.layers,
                                            .slots = core.disk_slots},
                                           &disk_replaced_));
    if (!disk_replaced_.empty()) {
      LogWarning("disk_tier_emptied", {{"path", options_.disk_path}, {"reason", disk_replaced_}});
    }
  }
  MutexLock lock(mu_);
  core_.emplace(core);
  const auto coordinators =
      std::count(options_.coordinator.begin(), options_.coordinator.end(), ',') + 1;
  for (int64_t i = 0; i < coordinators; ++i) reporters_.emplace_back(&core_->events());
  if (disk_ != nullptr) RestoreFromDisk();
  disk_jobs_ = std::make_unique<BoundedQueue<DiskJob>>(kDiskQueueMax);
  // One thread: a slot's forget, write and load happen in the order the core decided them.
  disk_thread_ = Thread("disk_io", [this] { DiskLoop(); });
  return absl::OkStatus();
}

void StoreServer::RestoreFromDisk() NO_THREAD_SAFETY_ANALYSIS {
  const auto records = disk_->TakeRecords();
  for (const auto& [record, slot] : records) core_->Restore(record, slot);
  LogInfo("disk_tier_opened", {{"path", options_.disk_path}, {"blocks", core_->blocks()}});
}

Status StoreServer::OpenStream(const StoreOptions& options, const NodeKey& self) {
  ASSIGN_OR_RETURN(const HostPort listen, ParseHostPort(options.kv_listen));
  RETURN_IF_ERROR(CheckLoopback(listen.host));
  StreamOptions stream{.self = self,
                       .listen_host = listen.host,
                       .listen_port = listen.port,
                       .format = format_,
                       .devices = options.devices,
                       .shared_memory = options.shared_memory};
  ASSIGN_OR_RETURN(owned_stream_, KvStream::Create(stream, this, this));
  stream_ = owned_stream_.get();
  RETURN_IF_ERROR(stream_->Register(arena_.data(), arena_.bytes()));
  stream_->OnOffer([this](BlockOffer offer) { OnOffer(std::move(offer)); });
  return absl::OkStatus();
}

uint8_t* StoreServer::SlotData(Slot slot) const {
  return arena_.data() + static_cast<size_t>(slot) * format_.block_bytes();
}

std::span<uint8_t> StoreServer::memory_for_testing() const {
  return {arena_.data(), arena_.bytes()};
}

// Serving ----------------------------------------------------------------------------------------

SegmentSource::Block StoreServer::Find(const BlockId& id) {
  Effects effects;
  StoreCore::Found found;
  {
    MutexLock lock(mu_);
    found = core_->Find(id, clock_.NowNs());
    effects = TakeEffects();
  }
  Run(std::move(effects));
  Block block;
  if (found.state == StoreCore::Found::State::kMissing) return block;
  Failpoint("store.serve");
  block.state = found.state == StoreCore::Found::State::kReady ? State::kReady : State::kPending;
  block.layers_ready = found.layers_ready;
  block.first_position = found.first_position;
  block.data = SlotData(found.slot);
  block.summed = true;
  block.checksums = std::move(found.checksums);
  block.pin = SegmentPin([this, pin = found.pin] { Unpin(pin); });
  return block;
}

void StoreServer::Unpin(uint64_t pin) {
  MutexLock lock(mu_);
  core_->Unpin(pin);
}

// Fetching ---------------------------------------------------------------------------------------

void StoreServer::OnOffer(BlockOffer offer) {
  Failpoint("store.offer");
  Effects effects;
  {
    MutexLock lock(mu_);
    if (peers_.size() >= limits::kPeersMax && !peers_.contains(offer.source.key)) peers_.clear();
    RankGroup& peer = peers_[offer.source.key];
    peer.ranks = {offer.source};
    peer.split = {};
    if (offer.group.has_value()) peer = *std::move(offer.group);
    core_->OnOffer({.source = offer.source.key,
                    .request = offer.fence.request,
                    .parent = offer.parent,
                    .first_position = offer.first_position,
                    .tenant_salt = std::move(offer.tenant_salt),
                    .prompt_end = offer.prompt_end,
                    .tokens = std::move(offer.tokens),
                    .branch = offer.branch},
                   clock_.NowNs());
    effects = TakeEffects();
  }
  Run(std::move(effects));
}

void StoreServer::OnLayer(uint64_t fetch, size_t item, uint32_t layer, uint32_t checksum) {
  Effects effects;
  {
    MutexLock lock(mu_);
    core_->OnLayer(fetch, item, layer, checksum);
    effects = TakeEffects();
  }
  Run(std::move(effects));
}

void StoreServer::OnFetchDone(uint64_t fetch, const std::vector<Status>& items) {
  Failpoint("store.block.stored");
  Effects effects;
  {
    MutexLock lock(mu_);
    running_.erase(fetch);
    core_->OnFetchDone(fetch, items, clock_.NowNs());
    effects = TakeEffects();
  }
  Run(std::move(effects));
}

StoreServer::Effects StoreServer::TakeEffects() {
  return {.commands = core_->TakeCommands(), .told = core_->TakeTold()};
}

void StoreServer::Run(Effects effects) {
  RunCommands(std::move(effects.commands));
  TellOwners(std::move(effects.told));
}

void StoreServer::RunCommands(std::vector<StoreCommand> commands) {
  for (StoreCommand& command : commands) {
    if (const auto* fetch = std::get_if<StartStoreFetch>(&command)) {
      StartFetch(*fetch);
    } else if (const auto* cancel = std::get_if<CancelStoreFetch>(&command)) {
      CancelFetch(*cancel);
    } else if (const auto* clear = std::get_if<ClearRows>(&command)) {
      unpacker_.Clear({clear->first_row, format_.block_tokens - clear->first_row},
                      SlotSpan(clear->slot));
    } else if (auto* publish = std::get_if<PublishBlock>(&command)) {
      stream_->Publish(publish->id, publish->layers_ready, std::move(publish->checksums));
    } else if (const auto* withdraw = std::get_if<WithdrawBlock>(&command)) {
      stream_->Withdraw(withdraw->id);
    } else {
      DiskJob job;
      if (auto* write = std::get_if<WriteDisk>(&command)) job.work = std::move(*write);
      if (auto* load = std::get_if<LoadDisk>(&command)) job.work = *load;
      if (auto* forget = std::get_if<ForgetDisk>(&command)) job.work = *forget;
      if (disk_jobs_->Push(std::move(job), INT64_MAX) == PushResult::kClosed) return;
    }
  }
}

void StoreServer::StartFetch(const StartStoreFetch& fetch) {
  // Whole blocks, put together from the ranks that hold their parts.
  StreamInSpec spec{.source = {},
                    .own = {},
                    .fence = {.request = fetch.request, .leg = 0},
                    .items = {},
                    .subscribe = true,
                    .timeout_ns = fetch.timeout_ns};
  {
    MutexLock lock(mu_);
    const auto peer = peers_.find(fetch.source);
    if (peer != peers_.end()) spec.source = peer->second;
  }
  for (const auto& item : fetch.items) {
    spec.items.push_back({item.id, item.first_position, SlotData(item.slot)});
  }
  const auto started =
      StreamIn::Start(stream_, format_, spec, std::make_shared<Listener>(this, fetch.fetch));
  if (!started.ok()) {
    OnFetchDone(fetch.fetch, std::vector<Status>(fetch.items.size(), started.status()));
    return;
  }
  MutexLock lock(mu_);
  if (core_->Fetching(fetch.fetch)) running_[fetch.fetch] = *started;  // else it is over already
}

void StoreServer::CancelFetch(const CancelStoreFetch& cancel) {
  std::shared_ptr<StreamIn> fetch;
  {
    MutexLock lock(mu_);
    const auto found = running_.find(cancel.fetch);
    if (found != running_.end()) fetch = found->second;
  }
  if (fetch != nullptr) fetch->Cancel();
}

// Disk -------------------------------------------------------------------------------------------

void StoreServer::DiskLoop() {
  while (std::optional<DiskJob> job = disk_jobs_->Pop()) {
    disk_busy_since_ns_.store(clock_.NowNs());
    DoDisk(*std::move(job));
    disk_busy_since_ns_.store(0);
  }
}

int64_t StoreServer::DiskAgeMs() const {
  const TimeNs since_ns = disk_busy_since_ns_.load();
  return since_ns == 0 ? 0 : (clock_.NowNs() - since_ns) / kMillisecond;
}

Status StoreServer::DoWrite(const WriteDisk& write) {
  Failpoint("store.disk.write");
  return disk_->Write(write.record, write.disk_slot, SlotData(write.memory_slot));
}

void StoreServer::DoDisk(DiskJob job) {
  Effects effects;
  if (const auto* forget = std::get_if<ForgetDisk>(&job.work)) {
    const Status status = disk_->Forget(forget->disk_slot);
    if (!status.ok()) LogWarning("disk_forget_failed", {{"status", status}});
    return;
  }
  const auto* write = std::get_if<WriteDisk>(&job.work);
  const auto* load = std::get_if<LoadDisk>(&job.work);
  const Status status = write != nullptr
                            ? DoWrite(*write)
                            : disk_->Read(load->id, load->disk_slot, SlotData(load->memory_slot));
  if (!status.ok()) {
    LogWarning(write != nullptr ? "disk_write_failed" : "disk_read_failed", {{"status", status}});
  }
  {
    MutexLock lock(mu_);
    if (write != nullptr) {
      core_->OnDiskWritten(write->record.id, status);
    } else {
      core_->OnDiskLoaded(load->id, status);
    }
    effects = TakeEffects();
  }
  TellOwners(std::move(effects.told));
  // Never waits for its own queue: this thread is the one that empties it.
  for (StoreCommand& command : effects.commands) {
    const bool for_disk = std::holds_alternative<WriteDisk>(command) ||
                          std::holds_alternative<LoadDisk>(command) ||
                          std::holds_alternative<ForgetDisk>(command);
    if (!for_disk) {
      RunCommands({std::move(command)});
      continue;
    }
    DiskJob next;
    if (auto* w = std::get_if<WriteDisk>(&command)) next.work = std::move(*w);
    if (auto* l = std::get_if<LoadDisk>(&command)) next.work = *l;
    if (auto* f = std::get_if<ForgetDisk>(&command)) next.work = *f;
    if (disk_jobs_->TryPush(std::move(next)) == PushResult::kFull) ReportBug("disk_queue_full");
  }
}

// Reports ----------------------------------------------------------------------------------------

void StoreServer::FillReport(v1::ReportRequest* request, size_t index) {
  MutexLock lock(mu_);
  const TierCounts memory = core_->memory();
  v1::Load* load = request->mutable_load();
  load->set_blocks_total(memory.total);
  load->set_blocks_free(memory.free);
  load->set_blocks_cached(memory.used);
  load->set_blocks_quarantined(memory.quarantined);
  load->set_stranded_bytes(core_->replicas().stranded_slots *
                           static_cast<int64_t>(format_.block_bytes()));
  const int64_t disk_age_ms = DiskAgeMs();
  load->set_probe_age_ms(disk_age_ms > kDiskBlockedMs ? disk_age_ms : -1);
  FillKvPart(reporters_[index].Prepare(), request);
}

bool StoreServer::OnReportAnswer(const v1::ReportResponse& response, size_t index) {
  MutexLock lock(mu_);
  reporters_[index].OnAnswer(KvAnswer(response));
  return reporters_[index].behind();
}

void StoreServer::AddMetrics(MetricsRegistry* metrics) {
  AddStreamMetrics(metrics, stream_);
  AddReplicaMetrics(metrics);
  const auto gauge = [&](const char* tier, const char* state, Slot TierCounts::*field,
                         TierCounts (StoreCore::*tier_of)() const) {
    metrics->RegisterCallbackGauge("reprise_store_blocks", "Block slots by tier and state.",
                                   [this, field, tier_of] {
                                     MutexLock lock(mu_);
                                     return static_cast<double>((*core_.*tier_of)().*field);
                                   },
                                   {{"tier", tier}, {"state", state}});
  };
  for (const auto& [tier, of] :
       {std::pair("memory", &StoreCore::memory), {"disk", &StoreCore::disk}}) {
    gauge(tier, "total", &TierCounts::total, of);
    gauge(tier, "free", &TierCounts::free, of);
    gauge(tier, "used", &TierCounts::used, of);
    gauge(tier, "quarantined", &TierCounts::quarantined, of);
  }
  const auto counter = [&](const char* name, const char* help, uint64_t StoreCounters::*field) {
    metrics->RegisterCallbackCounter(name, help, [this, field] {
      MutexLock lock(mu_);
      return static_cast<double>(core_->counters().*field);
    });
  };
  counter("reprise_store_offers_total", "Offers received.", &StoreCounters::offers);
  counter("reprise_store_offers_dropped_total", "Offers not taken whole for want of room.",
          &StoreCounters::offers_dropped);
  counter("reprise_store_blocks_stored_total", "Blocks fetched and verified.",
          &StoreCounters::blocks_stored);
  counter("reprise_store_fetch_items_failed_total", "Blocks that could not be fetched.",
          &StoreCounters::fetch_items_failed);
  counter("reprise_store_fetches_cancelled_total", "Fetches cancelled after their request's end.",
          &StoreCounters::fetches_cancelled);
  counter("reprise_store_hits_total", "Blocks asked for and held.", &StoreCounters::hits);
  counter("reprise_store_misses_total", "Blocks asked for and not held.", &StoreCounters::misses);
  counter("reprise_store_memory_evictions_total", "Blocks dropped from memory.",
          &StoreCounters::memory_evictions);
  counter("reprise_store_disk_evictions_total", "Blocks dropped from disk.",
          &StoreCounters::disk_evictions);
  counter("reprise_store_disk_writes_total", "Blocks written to disk.",
          &StoreCounters::disk_writes);
  counter("reprise_store_disk_loads_total", "Blocks read back from disk.",
          &StoreCounters::disk_loads);
  counter("reprise_store_disk_failures_total", "Disk operations that failed.",
          &StoreCounters::disk_failures);
}

}  // namespace reprise::kv
