#include "coordinator/core/coordinator_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace reprise::coordinator {
namespace {

bool IsActive(const Node& node) { return node.requests > 0 || node.load.busy; }

bool HoldsBlocks(Role role) { return role == Role::kWorker || role == Role::kStore; }

// Versions of different incarnations lie apart, so that none is taken for another's.
uint64_t FirstVersion(uint64_t incarnation) { return (incarnation << 24) + 1; }

Claim ClaimOf(const PlaceQuery& query) {
  return {.request_id = query.request_id,
          .previous = query.previous,
          .handle_digest = query.handle_digest,
          .attach = query.attach,
          .crashes = query.crashes};
}

}  // namespace

uint64_t CoordinatorCore::Stats::refused() const {
  uint64_t sum = 0;
  for (const uint64_t count : refusals) sum += count;
  return sum;
}

CoordinatorCore::CoordinatorCore(const CoreOptions& options, TimeNs now)
    : options_(options),
      membership_(options.membership),
      index_(options.index),
      requests_(options.requests, now),
      reservations_(options.reservations),
      verdicts_(FirstVersion(options.incarnation)),
      roles_(options.roles) {
  stores_.version = FirstVersion(options.incarnation);
  standby_ = options.standby;
}

StatusOr<ReportAnswer> CoordinatorCore::OnReport(const Report& report, TimeNs now) {
  const NodeKey& key = report.node.ref.key;
  const Node* before = membership_.Find(key.name);
  const bool same_format =
      before != nullptr && before->info.model.format_digest == report.node.model.format_digest;
  ASSIGN_OR_RETURN(const Slot slot, membership_.OnReport(report, now));
  if (!same_format) ElectModel();
  AbsorbChanges(now);
  active_ = active_ || IsActive(*membership_.Find(key.name));
  ReportAnswer answer;
  answer.coordinator_incarnation = options_.incarnation;
  answer.report_interval_ms = ReportIntervalMs();
  membership_.AllowSilence(key.name,
                           NsFromMs(answer.report_interval_ms - options_.report_interval_ms));
  answer.leader_epoch = leader_epoch_;
  answer.standby = standby_;
  // A late report of a node meanwhile dead brings nothing back.
  const Node* node = membership_.Find(key.name);
  if (node->state == NodeState::kDead) return answer;
  for (const RequestReport& request : report.requests) {
    requests_.OnReported(request, key);
  }
  if (!standby_) TellCluster(report, *node, answer);
  if (!HoldsBlocks(node->info.role)) return answer;
  reservations_.OnReport(slot, report.requests, now);
  const PrefixIndex::Answer index = index_.Apply(slot, report.events ? &*report.events : nullptr,
                                                 report.snapshot ? &*report.snapshot : nullptr);
  answer.next_event = index.next_event;
  answer.want_snapshot = index.want_snapshot;
  return answer;
}

void CoordinatorCore::TellCluster(const Report& report, const Node& node,
                                  ReportAnswer& answer) const {
  if (node.info.role == Role::kWorker && report.stores_version != stores_.version) {
    answer.stores = stores_;
  }
  if (node.info.role != Role::kStore && report.verdicts_version != verdicts_.version()) {
    answer.verdicts = verdicts_.List();
  }
  if (node.info.role == Role::kWorker) answer.roles = roles_.OrderFor(node.info.ref.key);
  answer.drain = node.draining;
  answer.drain_deadline_ms = node.drain_deadline_ms;
}

void CoordinatorCore::OnTick(TimeNs now) {
  membership_.Tick(now);
  reservations_.Tick(now);
  verdicts_.Tick(now);
  AbsorbChanges(now);
  active_ = std::any_of(membership_.nodes().begin(), membership_.nodes().end(),
                        [](const auto& entry) { return IsActive(entry.second); });
  if (options_.elastic_roles && !standby_) LookAtRoles(now);
}

int32_t CoordinatorCore::ReportIntervalMs() const {
  const bool rarer = !active_ && options_.idle_report_interval_ms != 0;
  return rarer ? options_.idle_report_interval_ms : options_.report_interval_ms;
}

void CoordinatorCore::LookAtRoles(TimeNs now) {
  if (now - roles_looked_ns_ < kSecond) return;
  roles_looked_ns_ = now;
  std::vector<WorkerLoad> workers;
  for (const auto& [name, node] : membership_.nodes()) {
    if (node.info.role != Role::kWorker || node.state != NodeState::kLive) continue;
    if (!IsServed(node.info)) continue;
    WorkerLoad& worker = workers.emplace_back();
    worker.key = node.info.ref.key;
    worker.roles = {.prefill = node.info.can_prefill, .decode = node.info.can_decode};
    worker.queued_prefill_tokens = node.load.queued_prefill_tokens;
    worker.running = node.info.can_decode ? node.load.running : 0;
  }
  roles_.Look(workers, now);
}

StatusOr<int32_t> CoordinatorCore::OnDrain(const std::string& name, int64_t deadline_ms) {
  return membership_.Drain(name, deadline_ms);
}

void CoordinatorCore::Lead(uint64_t epoch, TimeNs now) {
  if (epoch < leader_epoch_) return;
  leader_epoch_ = epoch;
  standby_ = false;
  requests_.Restart(epoch << 32, now);
}

void CoordinatorCore::Follow(uint64_t epoch) {
  if (epoch < leader_epoch_) return;
  leader_epoch_ = epoch;
  standby_ = true;
}

void CoordinatorCore::Judge(const MembershipChange& change, TimeNs now) {
  if (!HoldsBlocks(change.role)) return;
  const bool replaced = change.kind == MembershipChange::Kind::kReplaced;
  const bool at_fault = change.to == NodeState::kSuspect && change.reason != "silent";
  if (replaced || at_fault ||
      (change.kind == MembershipChange::Kind::kState && change.to == NodeState::kDead)) {
    verdicts_.Issue(change.key, replaced ? "replaced" : change.reason, now);
    ++counters_.verdicts;
  } else if (change.to == NodeState::kLive) {
    verdicts_.Withdraw(change.key);
  }
}

void CoordinatorCore::AbsorbChanges(TimeNs now) {
  std::vector<MembershipChange> changes = membership_.TakeChanges();
  for (MembershipChange& change : changes) {
    if (change.to == NodeState::kDead) {
      index_.Drop(change.slot);
      reservations_.Drop(change.slot);
    }
    Judge(change, now);
    changes_.push_back(std::move(change));
  }
  if (changes.empty()) return;
  ElectModel();
  ListStores();
}

void CoordinatorCore::ListStores() {
  std::vector<StoreInfo> live;
  for (const auto& [name, node] : membership_.nodes()) {
    if (node.info.role != Role::kStore || node.state != NodeState::kLive) continue;
    if (IsServed(node.info)) live.push_back({node.info.ref, node.info.failure_domain});
  }
  if (live == stores_.items) return;
  stores_.items = std::move(live);
  ++stores_.version;
}

// The format most workers have that are not dead; the present one as long as none has more.
void CoordinatorCore::ElectModel() {
  std::map<Digest256, std::pair<int, const ModelInfo*>> votes;
  for (const auto& [name, node] : membership_.nodes()) {
    if (node.info.role != Role::kWorker || node.state == NodeState::kDead) continue;
    auto& [count, model] = votes[node.info.model.format_digest];
    ++count;
    if (model == nullptr) model = &node.info.model;
  }
  if (votes.empty()) return;  // the last one stays named in status and refusals
  const auto present = model_ ? votes.find(model_->format_digest) : votes.end();
  const std::pair<int, const ModelInfo*>* best =
      present == votes.end() ? nullptr : &present->second;
  for (const auto& [digest, vote] : votes) {
    if (best == nullptr || vote.first > best->first) best = &vote;
  }
  model_ = *best->second;
}

bool CoordinatorCore::IsServed(const NodeInfo& node) const {
  return model_ && node.model.format_digest == model_->format_digest;
}

ClusterView CoordinatorCore::View(const PlaceQuery& query) const {
  ClusterView view;
  if (model_) view.model = &*model_;
  view.nodes.reserve(membership_.nodes().size());
  for (const auto& [name, node] : membership_.nodes()) {
    if (node.state == NodeState::kDead || !HoldsBlocks(node.info.role)) continue;
    if (!IsServed(node.info)) continue;
    // What a worker gives up it gets no more of; what it gains, once it says that it has it.
    view.nodes.push_back({&node.info, &node.load, node.slot, node.state,
                          reservations_.Of(node.slot),
                          roles_.OrderFor(node.info.ref.key).value_or(RoleOrder{})});
  }
  view.holders = index_.Holders(query.block_ids);
  return view;
}

// Where a request goes on if it is left alone. A suspect is not named: it may never answer.
std::optional<NodeRef> CoordinatorCore::LiveRunner(const PlaceQuery& query) const {
  const std::optional<NodeKey> key = requests_.Runner(query.request_id);
  if (key && std::find(query.avoid.begin(), query.avoid.end(), *key) != query.avoid.end()) {
    return std::nullopt;
  }
  const Node* node = key ? membership_.Find(key->name) : nullptr;
  if (node == nullptr || node->info.ref.key != *key) return std::nullopt;
  if (node->state != NodeState::kLive && node->state != NodeState::kLeaving) return std::nullopt;
  return node->info.ref;
}

std::variant<Placement, Refusal> CoordinatorCore::Place(const PlaceQuery& query, TimeNs now) {
  const Claim claim = ClaimOf(query);
  if (auto refusal = requests_.Check(claim, now)) return *std::move(refusal);
  if (query.attach) {
    Placement placement;
    placement.running = LiveRunner(query);
    if (placement.running) {
      placement.attempt = requests_.GrantAttach(claim, now);
      placement.leader_epoch = leader_epoch_;
      ++counters_.attaches;
      return placement;
    }
    if (query.prompt_tokens == 0) {
      return Refusal{RefusalCode::kNotRunning, "no live worker runs the request"};
    }
  }
  std::variant<Choice, Refusal> chosen = ChoosePlacement(options_.placement, View(query), query);
  if (auto* refusal = std::get_if<Refusal>(&chosen)) return std::move(*refusal);
  Choice& choice = std::get<Choice>(chosen);
  choice.placement.attempt = requests_.Grant(claim, choice.placement.decode.key, now);
  choice.placement.leader_epoch = leader_epoch_;
  choice.placement.alone = requests_.Crashes(claim) >= limits::kCrashesBeforeAlone;
  reservations_.Add(choice.decode, query.request_id, choice.at_decode, now);
  if (choice.prefill) {
    reservations_.Add(*choice.prefill, query.request_id, choice.at_prefill, now);
    ++counters_.prefill_legs;
  }
  return std::move(choice.placement);
}

std::variant<Placement, Refusal> CoordinatorCore::OnPlace(const PlaceQuery& query, TimeNs now) {
  std::variant<Placement, Refusal> result = Place(query, now);
  if (const Refusal* refusal = std::get_if<Refusal>(&result)) {
    ++counters_.refusals[static_cast<size_t>(refusal->code)];
  } else {
    ++counters_.placements;
  }
  return result;
}

StatusOr<ModelInfo> CoordinatorCore::Model(const std::string& name) const {
  if (!model_) return absl::UnavailableError("NO_WORKERS: no worker has reported");
  if (!name.empty() && name != model_->name) {
    return absl::NotFoundError(
        absl::StrCat("MODEL_MISMATCH: model ", name, " is not served here, ", model_->name, " is"));
  }
  return *model_;
}

std::vector<NodeSummary> CoordinatorCore::Nodes(TimeNs now) const {
  std::vector<NodeSummary> summaries;
  for (const auto& [name, node] : membership_.nodes()) {
    NodeSummary summary;
    summary.node = node.info;
    summary.load = node.load;
    summary.last_report_ms_ago = (now - node.heard_ns) / kMillisecond;
    summary.state = node.state;
    summary.reason = node.reason;
    if (node.reason.empty() && HoldsBlocks(node.info.role) && !IsServed(node.info)) {
      summary.reason = absl::StrCat("MODEL_MISMATCH: format ",
                                    HexEncode(node.info.model.format_digest).substr(0, 16),
                                    " is not the cluster's");
    }
    summary.indexed_blocks = static_cast<int64_t>(index_.NodeBlocks(node.slot));
    summaries.push_back(std::move(summary));
  }
  return summaries;
}

size_t CoordinatorCore::CountNodes(Role role, NodeState state) const {
  size_t count = 0;
  for (const auto& [name, node] : membership_.nodes()) {
    if (node.info.role == role && node.state == state) ++count;
  }
  return count;
}

std::vector<MembershipChange> CoordinatorCore::TakeChanges() { return std::exchange(changes_, {}); }

CoordinatorCore::Stats CoordinatorCore::stats() const {
  Stats stats = counters_;
  stats.stale_refused = membership_.stale_refused();
  stats.compensated_ns = membership_.compensated_ns();
  stats.requests = requests_.size();
  stats.role_moves = roles_.moves();
  stats.index = index_.stats();
  return stats;
}

}  // namespace reprise::coordinator
