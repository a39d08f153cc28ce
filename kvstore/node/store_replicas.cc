// The part of StoreServer that keeps replicas: takes appended rows into slots, answers releases and
// queries, tells owners, and reaps what nobody owns.
#include <cstring>
#include <map>
#include <utility>

#include "common/failpoint.h"
#include "common/log.h"
#include "kvstore/node/store_server.h"

namespace reprise::kv {
namespace {

constexpr auto kReapInterval = std::chrono::milliseconds(250);
constexpr auto kReapIntervalEmpty = std::chrono::seconds(1);  // while there are no sequences

}  // namespace

// Appends ----------------------------------------------------------------------------------------

std::vector<StoreServer::PlannedEntry> StoreServer::PlanEntries(const NodeKey& from,
                                                                std::span<const TailEntry> entries,
                                                                size_t* next,
                                                                std::vector<HeldRows>* held) {
  std::vector<PlannedEntry> planned;
  Effects effects;
  {
    MutexLock lock(mu_);
    const TimeNs now = clock_.NowNs();
    for (; *next < entries.size(); ++*next) {
      StoreCore::AppendPlan plan = core_->OnAppend(from, entries[*next], now);
      if (plan.busy) break;
      if (plan.write == 0) {
        (*held)[*next] = std::move(plan.held);
      } else {
        planned.push_back({*next, std::move(plan), absl::OkStatus(), {}});
      }
    }
    effects = TakeEffects();
  }
  Run(std::move(effects));
  return planned;
}

void StoreServer::WriteRows(const TailEntry& entry, std::span<const uint8_t> rows,
                            PlannedEntry* planned) {
  const StoreCore::AppendPlan& plan = planned->plan;
  if (plan.copy_from >= 0) {
    std::memcpy(SlotData(plan.slot), SlotData(plan.copy_from), format_.block_bytes());
  }
  planned->status = unpacker_.Unpack({.packed = rows,
                                      .checksum = entry.checksum,
                                      .seed = TailSeed(entry),
                                      .rows = static_cast<uint32_t>(entry.tokens.size()),
                                      .skip = plan.skip},
                                     plan.first_row, SlotSpan(plan.slot), &planned->parts);
}

void StoreServer::TakeEntries(const std::vector<PlannedEntry>& planned,
                              std::vector<HeldRows>* held) {
  Effects effects;
  bool sealed = false;
  {
    MutexLock lock(mu_);
    const TimeNs now = clock_.NowNs();
    const uint64_t before = core_->counters().blocks_sealed;
    for (const PlannedEntry& one : planned) {
      (*held)[one.entry] = core_->OnAppended(one.plan.write, one.status, one.parts, now);
    }
    sealed = core_->counters().blocks_sealed != before;
    effects = TakeEffects();
  }
  Run(std::move(effects));
  if (sealed) Failpoint("store.seal");
  Failpoint("store.append.take");
}

std::vector<HeldRows> StoreServer::OnAppend(const NodeKey& from, std::span<const TailEntry> entries,
                                            std::span<const uint8_t> rows) {
  Failpoint("store.append.receive");
  std::vector<size_t> offsets(entries.size() + 1, 0);
  for (size_t i = 0; i < entries.size(); ++i) {
    offsets[i + 1] = offsets[i] + PackedBytes(format_, entries[i].tokens.size());
  }
  std::vector<HeldRows> held(entries.size());
  for (size_t next = 0; next < entries.size();) {
    std::vector<PlannedEntry> planned = PlanEntries(from, entries, &next, &held);
    for (PlannedEntry& one : planned) {
      const size_t at = offsets[one.entry];
      WriteRows(entries[one.entry], rows.subspan(at, offsets[one.entry + 1] - at), &one);
    }
    if (!planned.empty()) {
      TakeEntries(planned, &held);
    } else if (next < entries.size()) {
      // Appends come on one thread, so no write of another one can be under way.
      ReportBug("append_overlaps_append");
      held[next] = {.request = entries[next].request,
                    .branch = entries[next].branch,
                    .status = absl::InternalError("two appends of one sequence at a time")};
      ++next;
    }
  }
  return held;
}

// The rest of the conversation -------------------------------------------------------------------

void StoreServer::OnRelease(const NodeKey&, const RequestKey& request) {
  Failpoint("store.release");
  Effects effects;
  {
    MutexLock lock(mu_);
    core_->OnRelease(request, clock_.NowNs());
    effects = TakeEffects();
  }
  Run(std::move(effects));
}

StatusOr<std::vector<TailState>> StoreServer::OnQuery(const NodeKey& from,
                                                      const RequestKey& request) {
  Failpoint("store.query");
  MutexLock lock(mu_);
  return core_->OnQuery(from, request, clock_.NowNs());
}

void StoreServer::OnFence(const RequestKey& request) {
  MutexLock lock(mu_);
  core_->OnFence(request, clock_.NowNs());
}

void StoreServer::OnPeerLost(const NodeKey& peer) {
  MutexLock lock(mu_);
  core_->OnPeerLost(peer, clock_.NowNs());
}

void StoreServer::TellOwners(std::vector<ToldHeld> told) {
  std::map<NodeKey, std::vector<HeldRows>> by_owner;
  for (ToldHeld& one : told) by_owner[one.owner].push_back(std::move(one.held));
  for (auto& [owner, held] : by_owner) stream_->TellHeld(owner, std::move(held));
}

void StoreServer::ReapLoop() {
  for (;;) {
    Effects effects;
    {
      MutexLock lock(mu_);
      if (stopping_) return;
      const bool empty = core_->replicas().sequences == 0;
      stop_.WaitFor(mu_, empty ? kReapIntervalEmpty : kReapInterval);
      if (stopping_) return;
      core_->OnTick(clock_.NowNs());
      effects = TakeEffects();
    }
    Run(std::move(effects));
  }
}

// Metrics ----------------------------------------------------------------------------------------

void StoreServer::AddReplicaMetrics(MetricsRegistry* metrics) {
  const auto gauge = [&](const char* name, const char* help, int64_t ReplicaCounts::*field,
                         int64_t factor) {
    metrics->RegisterCallbackGauge(name, help, [this, field, factor] {
      MutexLock lock(mu_);
      return static_cast<double>(core_->replicas().*field * factor);
    });
  };
  gauge("reprise_store_sequences", "Live sequences replicated here.", &ReplicaCounts::sequences, 1);
  gauge("reprise_store_leased_blocks", "Blocks that live sequences need.",
        &ReplicaCounts::leased_blocks, 1);
  gauge("reprise_store_tail_rows", "Rows in open tails.", &ReplicaCounts::tail_rows, 1);
  gauge("reprise_stranded_bytes", "Bytes held for requests that have ended.",
        &ReplicaCounts::stranded_slots, static_cast<int64_t>(format_.block_bytes()));
  const auto counter = [&](const char* name, const char* help, uint64_t StoreCounters::*field,
                           const MetricLabels& labels) {
    metrics->RegisterCallbackCounter(
        name, help,
        [this, field] {
          MutexLock lock(mu_);
          return static_cast<double>(core_->counters().*field);
        },
        labels);
  };
  counter("reprise_store_append_entries_total", "Pieces of sequences appended.",
          &StoreCounters::append_entries, {});
  counter("reprise_store_append_rows_total", "Rows taken into tails.", &StoreCounters::append_rows,
          {});
  for (const auto& [reason, field] : {std::pair("stale", &StoreCounters::refused_stale),
                                      {"released", &StoreCounters::refused_released},
                                      {"gap", &StoreCounters::refused_gap},
                                      {"damaged", &StoreCounters::refused_damaged},
                                      {"no_room", &StoreCounters::refused_no_room},
                                      {"contradiction", &StoreCounters::refused_contradiction}}) {
    counter("reprise_store_appends_refused_total", "Pieces refused, by reason.", field,
            {{"reason", reason}});
  }
  counter("reprise_store_blocks_sealed_total", "Tails that became blocks.",
          &StoreCounters::blocks_sealed, {});
  counter("reprise_store_tails_copied_total", "Tails copied because somebody read them.",
          &StoreCounters::tails_copied, {});
  counter("reprise_store_releases_total", "Requests released by their owners.",
          &StoreCounters::releases, {});
  counter("reprise_store_orphans_released_total", "Requests released because nobody owned them.",
          &StoreCounters::orphans_released, {});
}

}  // namespace reprise::kv
