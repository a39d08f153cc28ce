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
  if (faults_.coordinator_restarts) kinds.push_back(&Cluster::RestartCoordinator);
  if (faults_.freezes) kinds.push_back(&Cluster::FreezeSomebody);
  if (faults_.partitions) kinds.push_back(&Cluster::Partition);
  if (faults_.cancels) kinds.push_back(&Cluster::CancelSomebody);
  if (faults_.kv_breaks) kinds.push_back(&Cluster::BreakKv);
  if (faults_.link_breaks) kinds.push_back(&Cluster::BreakLink);
  (this->*kinds[plan_.Below(kinds.size())])();
}

void Cluster::CrashWorker() {
  WorkerSlot& slot = workers_[plan_.Below(workers_.size())];
  if (slot.now == nullptr) return;
  ++totals_.worker_crashes;
  Count(*slot.now);
  const Pid pid = std::exchange(slot.now, nullptr)->pid();
  world_.Kill(pid);
  network_.BreakAllOf(pid);
  const auto down = static_cast<TimeNs>(plan_.Below(2 * kSecond));
  world_.After(down, {"restart", 0, 0, pid}, [this, &slot] {
    if (slot.now == nullptr) StartWorker(slot);
  });
}

void Cluster::CrashStore() {
  StoreSlot& slot = stores_[plan_.Below(stores_.size())];
  if (slot.now == nullptr) return;
  ++totals_.store_crashes;
  Count(*slot.now);
  slot.now->CrashDisk(faults_.torn_disk);
  if (faults_.store_loses_disk && plan_.Chance(0.5)) slot.disk.Clear();
  const Pid pid = std::exchange(slot.now, nullptr)->pid();
  world_.Kill(pid);
  network_.BreakAllOf(pid);
  const auto down = static_cast<TimeNs>(plan_.Below(2 * kSecond));
  world_.After(down, {"restart", 0, 0, pid}, [this, &slot] {
    if (slot.now == nullptr) StartStore(slot);
  });
}

void Cluster::RestartCoordinator() {
  if (context_.coordinator == nullptr) return;
  ++totals_.coordinator_restarts;
  const Pid pid = std::exchange(context_.coordinator, nullptr)->pid();
  world_.Kill(pid);
  network_.BreakAllOf(pid);
  const auto down = static_cast<TimeNs>(plan_.Below(2 * kSecond));
  world_.After(down, {"restart", 0, 0, pid}, [this] {
    if (context_.coordinator == nullptr) StartCoordinator();
  });
}

void Cluster::FreezeSomebody() {
  std::vector<Pid> candidates;
  for (const WorkerSlot& slot : workers_) {
    if (slot.now != nullptr) candidates.push_back(slot.now->pid());
  }
  for (const StoreSlot& slot : stores_) {
    if (slot.now != nullptr) candidates.push_back(slot.now->pid());
  }
  if (context_.coordinator != nullptr) candidates.push_back(context_.coordinator->pid());
  if (candidates.empty()) return;
  ++totals_.freezes;
  const Pid pid = candidates[plan_.Below(candidates.size())];
  const auto frozen = static_cast<TimeNs>(100 * kMillisecond + plan_.Below(3 * kSecond));
  world_.Trace("freeze ", world_.name(pid), " for ", MsFromNs(frozen), " ms");
  world_.Freeze(pid, world_.now() + frozen);
}

// The coordinator and one node do not hear each other; everybody else hears both.
void Cluster::Partition() {
  if (context_.coordinator == nullptr) return;
  std::vector<Pid> nodes = {gateway_->pid()};
  for (const WorkerSlot& slot : workers_) {
    if (slot.now != nullptr) nodes.push_back(slot.now->pid());
  }
  for (const StoreSlot& slot : stores_) {
    if (slot.now != nullptr) nodes.push_back(slot.now->pid());
  }
  const Pid pid = nodes[plan_.Below(nodes.size())];
  const auto lasts = static_cast<TimeNs>(200 * kMillisecond + plan_.Below(4 * kSecond));
  world_.Trace("partition of ", world_.name(pid), " for ", MsFromNs(lasts), " ms");
  network_.Partition(context_.coordinator->pid(), pid, world_.now() + lasts);
  ++totals_.partitions;
}

void Cluster::BreakOne(const char* kind) {
  const std::vector<StreamId> open = network_.Open(kind);
  if (open.empty()) return;
  const StreamId stream = open[plan_.Below(open.size())];
  world_.Trace("break ", kind, " stream ", stream);
  network_.Break(stream);
}

void Cluster::CancelSomebody() {
  const std::vector<std::string> running = gateway_->Running();
  if (running.empty()) return;
  const std::string& id = running[plan_.Below(running.size())];
  world_.Trace("cancel ", id);
  gateway_->Cancel(id);
}

void Cluster::StopFaults() {
  context_.faults_stopped = true;
  network_.StopFaults();
  for (WorkerSlot& slot : workers_) {
    if (slot.now == nullptr) StartWorker(slot);
  }
  for (StoreSlot& slot : stores_) {
    if (slot.now == nullptr) StartStore(slot);
  }
  if (context_.coordinator == nullptr) StartCoordinator();
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
}

void Cluster::Count(const SimStore& store) {
  const kv::StoreCounters& counters = store.core().counters();
  totals_.store_hits += counters.hits;
  totals_.store_evictions += counters.memory_evictions;
  totals_.disk_loads += counters.disk_loads;
  totals_.disk_failures += counters.disk_failures;
  totals_.checksum_failures += store.stream().stats().checksum_failures;
}

RunResult Cluster::Result() {
  for (const WorkerSlot& slot : workers_) {
    if (slot.now != nullptr) Count(*slot.now);
  }
  for (const StoreSlot& slot : stores_) {
    if (slot.now != nullptr) Count(*slot.now);
  }
  totals_.runs = 1;
  totals_.events = world_.events();
  totals_.journal = journal_.totals();
  totals_.sessions = gateway_->totals();
  totals_.streams_broken = network_.stats().broken;
  totals_.dropped = network_.stats().dropped;
  totals_.duplicated = network_.stats().duplicated;
  totals_.straggled = network_.stats().straggled;
  return {world_.failure(), world_.hash(), world_.now(), totals_};
}

}  // namespace reprise::sim
