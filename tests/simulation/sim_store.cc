#include "tests/simulation/sim_store.h"

#include <utility>

namespace reprise::sim {
namespace {

kv::StoreCoreOptions OptionsOf(const Context& context, const StoreSize& size) {
  kv::StoreCoreOptions options;
  options.format_digest = context.chain.format_digest;
  options.block_tokens = context.chain.block_tokens;
  options.layers = context.model.layers;
  options.segment_bytes = context.segment_bytes();
  options.memory_slots = size.memory_slots;
  options.disk_slots = size.disk_slots;
  options.fetch_timeout_ns = 10 * kSecond;
  options.orphan_ns = 10 * kSecond;
  return options;
}

std::string Text(const kv::TierCounts& counts) {
  return absl::StrCat("used ", counts.used, " free ", counts.free, " quarantined ",
                      counts.quarantined, " total ", counts.total);
}

}  // namespace

SimStore::SimStore(Context& context, const NodeKey& key, const StoreSize& size, SimDisk* disk)
    : context_(context),
      key_(key),
      pid_(context.world.Spawn(key.name)),
      core_(OptionsOf(context, size)),
      unpacker_(context.format),
      reporters_(context.coordinators.size(), kv::EventReporter(&core_.events())),
      arena_(static_cast<size_t>(size.memory_slots) * context.block_bytes()),
      disk_(disk),
      stream_(context, key, pid_, [this](const kv::BlockId& id) { return Find(id); }),
      reports_(context, pid_, info(),
               {.fill =
                    [this](size_t index, coordinator::Report& report) {
                      const kv::TierCounts memory = core_.memory();
                      report.load.blocks_total = memory.total;
                      report.load.blocks_free = memory.free;
                      report.load.blocks_cached = memory.used;
                      report.load.blocks_quarantined = memory.quarantined;
                      report.load.stranded_bytes = core_.replicas().stranded_slots *
                                                   static_cast<int64_t>(context_.block_bytes());
                      FillKv(reporters_[index].Prepare(), report);
                    },
                .answered =
                    [this](size_t index, const coordinator::ReportAnswer& answer) {
                      reporters_[index].OnAnswer(KvAnswer(answer));
                      return reporters_[index].behind();
                    },
                .ordered = [](size_t, const coordinator::ReportAnswer&) {}}) {
  context.stores[key] = this;
  for (const auto& [record, slot] : disk->Records()) core_.Restore(record, slot);
  stream_.OnFence([this](const RequestKey& request) {
    core_.OnFence(request, Now());
    Run();
  });
  Tick();
  reports_.Start();
}

coordinator::NodeInfo SimStore::info() const {
  coordinator::NodeInfo info;
  info.ref.key = key_;
  info.role = coordinator::Role::kStore;
  info.failure_domain = key_.name;
  info.model.format_digest = context_.chain.format_digest;
  info.model.block_tokens = context_.chain.block_tokens;
  return info;
}

KvFound SimStore::Find(const kv::BlockId& id) {
  const kv::StoreCore::Found found = core_.Find(id, Now());
  Run();
  if (found.state == kv::StoreCore::Found::State::kMissing) return {};
  const bool ready = found.state == kv::StoreCore::Found::State::kReady;
  if (ready && !found.tail && found.layers_ready == context_.model.layers) {
    const std::string wrong = context_.oracle.Check(id, found.first_position, SlotData(found.slot));
    if (!wrong.empty() && context_.mutation == Mutation::kNone) {
      context_.world.Fail(absl::StrCat(key_.name, " serves a wrong block: ", wrong));
    }
  }
  if (context_.mutated(Mutation::kStorePinDropped)) core_.Unpin(found.pin);
  return {.state = ready ? KvFound::State::kReady : KvFound::State::kPending,
          .layers_ready = found.layers_ready,
          .first_position = found.first_position,
          .data = SlotData(found.slot),
          .summed = true,
          .checksums = found.checksums,
          .unpin = [this, pin = found.pin] { core_.Unpin(pin); }};
}

void SimStore::Run() {
  for (kv::StoreCommand& command : core_.TakeCommands()) {
    if (const auto* fetch = std::get_if<kv::StartStoreFetch>(&command)) {
      StartFetch(*fetch);
    } else if (const auto* cancel = std::get_if<kv::CancelStoreFetch>(&command)) {
      stream_.Cancel(fetches_.at(cancel->fetch));
    } else if (const auto* clear = std::get_if<kv::ClearRows>(&command)) {
      const uint32_t rows = context_.format.block_tokens - clear->first_row;
      unpacker_.Clear({clear->first_row, rows}, {SlotData(clear->slot), context_.block_bytes()});
    } else if (const auto* publish = std::get_if<kv::PublishBlock>(&command)) {
      stream_.Publish(publish->id, publish->layers_ready, publish->checksums);
    } else if (const auto* withdraw = std::get_if<kv::WithdrawBlock>(&command)) {
      stream_.Withdraw(withdraw->id);
    } else if (auto* write = std::get_if<kv::WriteDisk>(&command)) {
      QueueDisk(std::move(*write));
    } else if (auto* load = std::get_if<kv::LoadDisk>(&command)) {
      QueueDisk(*load);
    } else {
      QueueDisk(std::get<kv::ForgetDisk>(command));
    }
  }
  TellOwners();
}

void SimStore::StartFetch(const kv::StartStoreFetch& fetch) {
  KvFetch spec;
  spec.source = fetch.source;
  spec.request = fetch.request;
  spec.subscribe = true;
  spec.timeout = fetch.timeout_ns;
  for (const auto& item : fetch.items) {
    spec.items.push_back({item.id, item.first_position, SlotData(item.slot)});
  }
  spec.layer = [this, id = fetch.fetch](size_t item, uint32_t layer, uint32_t checksum) {
    core_.OnLayer(id, item, layer, checksum);
    Run();
  };
  spec.done = [this, id = fetch.fetch](const std::vector<Status>& items) {
    fetches_.erase(id);
    core_.OnFetchDone(id, items, Now());
    Run();
  };
  fetches_[fetch.fetch] = stream_.Fetch(std::move(spec));
}

// Disk: one operation at a time, in the order the core decided them. -----------------------------

void SimStore::QueueDisk(DiskJob job) {
  disk_jobs_.push_back(std::move(job));
  if (disk_jobs_.size() == 1) NextDiskJob();
}

void SimStore::NextDiskJob() {
  TimeNs takes =
      100 * kMicrosecond + static_cast<TimeNs>(context_.world.random().Below(5 * kMillisecond));
  const bool blocks = context_.faults.disk_blocked && !context_.faults_stopped;
  if (blocks && context_.world.random().Chance(0.05)) {
    takes += 2 * kSecond;
    context_.world.Note(Injected::kDiskBlocked);
  }
  context_.world.After(takes, {"disk", pid_, pid_, disk_jobs_.front().index()},
                       [this] { EndDiskJob(); });
}

void SimStore::WriteDisk(const kv::WriteDisk& write) {
  if (context_.faults.disk_full && !context_.faults_stopped &&
      context_.world.random().Chance(0.5)) {
    context_.world.Note(Injected::kDiskFull);
    return core_.OnDiskWritten(write.record.id, absl::ResourceExhaustedError("disk full"));
  }
  disk_->Write(write.record, write.disk_slot, SlotData(write.memory_slot), context_.block_bytes());
  core_.OnDiskWritten(write.record.id, absl::OkStatus());
}

void SimStore::EndDiskJob() {
  const DiskJob job = std::move(disk_jobs_.front());
  if (const auto* write = std::get_if<kv::WriteDisk>(&job)) {
    WriteDisk(*write);
  } else if (const auto* load = std::get_if<kv::LoadDisk>(&job)) {
    core_.OnDiskLoaded(load->id, disk_->Read(load->id, load->disk_slot, SlotData(load->memory_slot),
                                             context_.model.layers));
  } else {
    disk_->Forget(std::get<kv::ForgetDisk>(job).disk_slot);
  }
  disk_jobs_.pop_front();
  if (!disk_jobs_.empty()) NextDiskJob();
  Run();
}

void SimStore::CrashDisk(bool lying) {
  if (lying && disk_->Tear()) context_.world.Note(Injected::kDiskTorn);
  if (disk_jobs_.empty()) return;
  const auto* write = std::get_if<kv::WriteDisk>(&disk_jobs_.front());
  if (write != nullptr) disk_->Forget(write->disk_slot);
}

// Checks -----------------------------------------------------------------------------------------

void SimStore::Check() {
  for (const kv::TierCounts& tier : {core_.memory(), core_.disk()}) {
    if (tier.used + tier.free + tier.quarantined != tier.total) {
      context_.world.Fail(absl::StrCat(key_.name, ": slots do not add up: ", Text(tier)));
    }
  }
}

void SimStore::CheckQuiet() {
  const kv::ReplicaCounts replicas = core_.replicas();
  const bool quiet = core_.memory().quarantined == 0 && stream_.fetches() == 0 &&
                     stream_.serving() == 0 && disk_jobs_.empty() && incoming_.empty() &&
                     replicas.requests == 0 && replicas.sequences == 0 &&
                     replicas.leased_blocks == 0 && replicas.tail_rows == 0 &&
                     replicas.stranded_slots == 0;
  if (!quiet) {
    context_.world.Fail(absl::StrCat(
        key_.name, " is not quiet: ", Text(core_.memory()), ", ", stream_.fetches(), " fetches, ",
        stream_.serving(), " served, ", disk_jobs_.size(), " disk operations, ", incoming_.size(),
        " appends, replicas of ", replicas.requests, " requests, ", replicas.sequences,
        " sequences, ", replicas.leased_blocks, " leased blocks, ", replicas.stranded_slots,
        " stranded slots"));
  }
  if (const Status status = core_.Audit(); !status.ok()) {
    context_.world.Fail(absl::StrCat(key_.name, ": ", status.message()));
  }
}

}  // namespace reprise::sim
