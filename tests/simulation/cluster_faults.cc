// The one who breaks things, and the account of what happened.
#include <algorithm>
#include <utility>

#include "tests/simulation/cluster.h"

namespace reprise::sim {

void Cluster::ScheduleFault() {
  const auto wait = static_cast<TimeNs>(20 * kMillisecond + plan_.Below(500 * kMillisecond));
  world_.After(wait, {"fault", 0, 0, 0}, [this] {
    if (context_.faults_stopped) return;
    OneFault();
    ScheduleFault();
  });
}

void Cluster::OneFault() {
  std::vector<void (Cluster::*)()> kinds;
  if (faults_.worker_crashes) kinds.push_back(&Cluster::CrashWorker);
  if (faults_.store_crashes) kinds.push_back(&Cluster::CrashStore);
  if (faults_.coordinator_restarts) kinds.push_back(&Cluster::CrashCoordinator);
  if (faults_.freezes) kinds.push_back(&Cluster::FreezeSomebody);
  if (faults_.partitions) kinds.push_back(&Cluster::Partition);
  if (faults_.gateway_crashes) kinds.push_back(&Cluster::CrashGateway);
  if (faults_.drains) kinds.push_back(&Cluster::DrainWorker);
  if (faults_.clock_jumps) kinds.push_back(&Cluster::JumpClock);
  if (faults_.departures) kinds.push_back(&Cluster::SomebodyLeaves);
  if (faults_.cancels) kinds.push_back(&Cluster::CancelSomebody);
  if (faults_.kv_breaks) kinds.push_back(&Cluster::BreakKv);
  if (faults_.link_breaks) kinds.push_back(&Cluster::BreakLink);
  (this->*kinds[plan_.Below(kinds.size())])();
}

// Its process ends; another takes the name after a while.
template <typename Slot>
void Cluster::TakeDown(Slot& slot) {
  Count(*slot.now);
  const Pid pid = std::exchange(slot.now, nullptr)->pid();
  world_.Kill(pid);
  network_.BreakAllOf(pid);
  const auto down = static_cast<TimeNs>(plan_.Below(2 * kSecond));
  world_.After(down, {"restart", 0, 0, pid}, [this, &slot] {
    if (slot.now == nullptr) Restart(slot);
  });
}

void Cluster::CrashWorker() {
  WorkerSlot& slot = workers_[plan_.Below(workers_.size())];
  if (slot.now == nullptr) return;
  world_.Note(Injected::kWorkerCrash);
  TakeDown(slot);
}

void Cluster::DrainWorker() {
  SimCoordinator* const coordinator = Leader();
  WorkerSlot& slot = workers_[plan_.Below(workers_.size())];
  if (slot.now == nullptr || slot.now->core().draining()) return;
  const auto deadline = static_cast<TimeNs>(500 * kMillisecond + plan_.Below(3 * kSecond));
  world_.Note(Injected::kDrain);
  // By the coordinator's order, or by signal.
  const bool ordered = coordinator != nullptr && plan_.Chance(0.5) &&
                       coordinator->OnDrain(slot.name, deadline / kMillisecond).ok();
  const Pid pid = slot.now->pid();
  if (!ordered) {
    world_.After(0, {"sigterm", 0, pid, 0},
                 [worker = slot.now, deadline] { worker->Drain(deadline); });
  }
  AwaitDrained(slot, pid, world_.now() + deadline + 10 * kSecond);
}

// It exits when it has nothing left, or is killed long after its deadline.
void Cluster::AwaitDrained(WorkerSlot& slot, Pid pid, TimeNs until) {
  world_.After(50 * kMillisecond, {"await_drained", 0, 0, pid}, [this, &slot, pid, until] {
    if (slot.now == nullptr || slot.now->pid() != pid) return;
    if (slot.now->drained() || world_.now() >= until) return TakeDown(slot);
    AwaitDrained(slot, pid, until);
  });
}

void Cluster::CrashGateway() {
  GatewaySlot& slot = gateways_[plan_.Below(gateways_.size())];
  if (slot.now == nullptr) return;
  world_.Note(Injected::kGatewayCrash);
  TakeDown(slot);
}

void Cluster::CrashStore() {
  StoreSlot& slot = stores_[plan_.Below(stores_.size())];
  if (slot.now == nullptr) return;
  world_.Note(Injected::kStoreCrash);
  slot.now->CrashDisk(faults_.torn_disk);
  if (faults_.store_loses_disk && plan_.Chance(0.5)) {
    slot.disk.Clear();
    world_.Note(Injected::kDiskLost);
  }
  TakeDown(slot);
}

void Cluster::CrashCoordinator() {
  const size_t index = plan_.Below(context_.coordinators.size());
  if (context_.coordinators[index] == nullptr) return;
  world_.Note(Injected::kCoordinatorCrash);
  const Pid pid = std::exchange(context_.coordinators[index], nullptr)->pid();
  world_.Kill(pid);
  network_.BreakAllOf(pid);
  const auto down = static_cast<TimeNs>(plan_.Below(2 * kSecond));
  world_.After(down, {"restart", 0, 0, pid}, [this, index] {
    if (context_.coordinators[index] == nullptr) RestartCoordinator(index);
  });
}

void Cluster::Restart(WorkerSlot& slot) {
  world_.Note(Injected::kRestart);
  StartWorker(slot);
}

void Cluster::Restart(StoreSlot& slot) {
  world_.Note(Injected::kRestart);
  StartStore(slot);
}

void Cluster::Restart(GatewaySlot& slot) {
  world_.Note(Injected::kRestart);
  StartGateway(slot);
}

void Cluster::RestartCoordinator(size_t index) {
  world_.Note(Injected::kRestart);
  StartCoordinator(index);
}

std::vector<Pid> Cluster::Processes() const {
  std::vector<Pid> pids;
  for (const WorkerSlot& slot : workers_) {
    if (slot.now != nullptr) pids.push_back(slot.now->pid());
  }
  for (const StoreSlot& slot : stores_) {
    if (slot.now != nullptr) pids.push_back(slot.now->pid());
  }
  for (const GatewaySlot& slot : gateways_) {
    if (slot.now != nullptr) pids.push_back(slot.now->pid());
  }
  for (const SimCoordinator* const coordinator : context_.coordinators) {
    if (coordinator != nullptr) pids.push_back(coordinator->pid());
  }
  if (context_.coordinators.size() > 1) pids.push_back(etcd_.pid());
  return pids;
}

void Cluster::FreezeSomebody() {
  const std::vector<Pid> processes = Processes();
  if (processes.empty()) return;
  world_.Note(Injected::kPause);
  const Pid pid = processes[plan_.Below(processes.size())];
  const auto frozen = static_cast<TimeNs>(100 * kMillisecond + plan_.Below(3 * kSecond));
  world_.Trace("freeze ", world_.name(pid), " for ", MsFromNs(frozen), " ms");
  world_.Freeze(pid, world_.now() + frozen);
}

void Cluster::JumpClock() {
  const std::vector<Pid> processes = Processes();
  if (processes.empty()) return;
  world_.Note(Injected::kClockJump);
  const Pid pid = processes[plan_.Below(processes.size())];
  const auto ahead = static_cast<TimeNs>(plan_.Below(3 * kSecond));
  world_.Trace("the clock of ", world_.name(pid), " jumps by ", MsFromNs(ahead), " ms");
  world_.Jump(pid, ahead);
}

// Mostly any two; often two coordinators, for what a leader must not do unheard.
std::pair<size_t, size_t> Cluster::TwoOf(const std::vector<Pid>& processes) {
  std::vector<size_t> group;
  for (size_t i = 0; i < processes.size(); ++i) {
    for (const SimCoordinator* const coordinator : context_.coordinators) {
      if (coordinator != nullptr && coordinator->pid() == processes[i]) group.push_back(i);
    }
  }
  if (group.size() > 1 && plan_.Chance(0.3)) {
    const size_t first = plan_.Below(group.size());
    return {group[first], group[(first + 1) % group.size()]};
  }
  const size_t first = plan_.Below(processes.size());
  return {first, (first + 1 + plan_.Below(processes.size() - 1)) % processes.size()};
}

// Between two processes, in one direction or both; everybody else hears both.
void Cluster::Partition() {
  const std::vector<Pid> processes = Processes();
  if (processes.size() < 2) return;
  const auto [a, b] = TwoOf(processes);
  const bool both = plan_.Chance(0.5);
  const auto lasts = static_cast<TimeNs>(200 * kMillisecond + plan_.Below(4 * kSecond));
  world_.Trace("partition from ", world_.name(processes[a]), " to ", world_.name(processes[b]),
               both ? " and back" : "", " for ", MsFromNs(lasts), " ms");
  network_.Partition(processes[a], processes[b], world_.now() + lasts);
  if (both) network_.Partition(processes[b], processes[a], world_.now() + lasts);
  world_.Note(both ? Injected::kTwoWayPartition : Injected::kOneWayPartition);
}

void Cluster::BreakKv() {
  static constexpr const char* kKinds[] = {"kv", "leg", "replica"};
  BreakOne(kKinds[plan_.Below(3)]);
}

void Cluster::BreakOne(const char* kind) {
  const std::vector<StreamId> open = network_.Open(kind);
  if (open.empty()) return;
  const StreamId stream = open[plan_.Below(open.size())];
  world_.Trace("break ", kind, " stream ", stream);
  world_.Note(absl::string_view(kind) == "link" ? Injected::kLinkBreak : Injected::kKvBreak);
  network_.Break(stream);
}

void Cluster::StopFaults() {
  context_.faults_stopped = true;
  network_.StopFaults();
  for (WorkerSlot& slot : workers_) {
    if (slot.now == nullptr) Restart(slot);
  }
  for (StoreSlot& slot : stores_) {
    if (slot.now == nullptr) Restart(slot);
  }
  for (GatewaySlot& slot : gateways_) {
    if (slot.now == nullptr) Restart(slot);
  }
  for (size_t i = 0; i < context_.coordinators.size(); ++i) {
    if (context_.coordinators[i] == nullptr) RestartCoordinator(i);
  }
  world_.Trace("faults stop");
}

// The account ------------------------------------------------------------------------------------

void Cluster::Count(const SimWorker& worker) {
  const worker::CoreStats& stats = worker.core().stats();
  totals_.fetch_hits += stats.fetch_hits;
  totals_.prefix_tokens += stats.cached_tokens;
  totals_.legs_served += stats.legs_served;
  totals_.legs_failed += stats.legs_failed;
  totals_.preemptions += stats.preemptions;
  totals_.evictions += stats.evictions;
  totals_.checksum_failures += worker.stream().stats().checksum_failures;
  totals_.fetches_cancelled += worker.stream().stats().cancelled;
  totals_.appended_rows += stats.appended_rows;
  totals_.replicas_lost += stats.replicas_lost;
  totals_.rebuilds += stats.rebuilds;
  totals_.fenced += stats.fenced;
  totals_.restored_rows += stats.restored_rows;
  totals_.replayed_rows += stats.replayed_rows;
  totals_.orphaned += stats.orphaned;
  totals_.windows_over += stats.windows_over;
}

void Cluster::Count(const SimStore& store) {
  const kv::StoreCounters& counters = store.core().counters();
  totals_.store_hits += counters.hits;
  totals_.store_evictions += counters.memory_evictions;
  totals_.disk_loads += counters.disk_loads;
  totals_.disk_failures += counters.disk_failures;
  totals_.blocks_sealed += counters.blocks_sealed;
  totals_.tails_copied += counters.tails_copied;
  totals_.append_gaps += counters.refused_gap;
  totals_.stale_appends += counters.refused_stale;
  totals_.appends_without_room += counters.refused_no_room;
  totals_.orphans_released += counters.orphans_released;
  totals_.damaged_appends += store.damaged_appends();
  totals_.checksum_failures += store.stream().stats().checksum_failures;
}

void Cluster::Count(const SimGateway& gateway) {
  totals_.sessions.stale_events += gateway.totals().stale_events;
  totals_.sessions.duplicates += gateway.totals().duplicates;
  totals_.sessions.gaps += gateway.totals().gaps;
  totals_.sessions.replacements += gateway.totals().replacements;
  totals_.sessions.refusals += gateway.totals().refusals;
  totals_.links_failed += gateway.links_failed();
  totals_.attaches += gateway.attached();
}

RunResult Cluster::Result() {
  for (const GatewaySlot& slot : gateways_) {
    if (slot.now != nullptr) Count(*slot.now);
  }
  for (const WorkerSlot& slot : workers_) {
    if (slot.now != nullptr) Count(*slot.now);
  }
  for (const StoreSlot& slot : stores_) {
    if (slot.now != nullptr) Count(*slot.now);
  }
  totals_.runs = 1;
  totals_.events = world_.events();
  totals_.journal = journal_.totals();
  totals_.resumes = clients_.totals().resumes;
  totals_.clients_left = clients_.totals().left + clients_.totals().left_for_good;
  totals_.handles_lost = clients_.totals().handles_lost;
  for (const auto& coordinator : all_coordinators_) totals_.elections += coordinator->elections();
  totals_.stale_leader_refused = context_.stale_leader_refused;
  totals_.streams_broken = network_.broken();
  totals_.faults = world_.tally();
  return {world_.failure(), world_.hash(), world_.now(), totals_};
}

}  // namespace reprise::sim
