#include "tests/simulation/cluster.h"

#include <algorithm>
#include <utility>

namespace reprise::sim {
namespace {

// Mutations that only a certain fault brings to light.
Faults FaultsFor(SplitMix64& plan, Mutation mutation) {
  Faults faults = DrawFaults(plan);
  faults.corruption |= mutation == Mutation::kChecksumUnchecked;
  if (mutation == Mutation::kFetchDoneBeforeQuiet) {
    faults.stragglers = faults.cancels = faults.few_pages = true;
  }
  if (mutation == Mutation::kPageQuietAtOnce || mutation == Mutation::kUnlistForgotten) {
    faults.few_pages = faults.delays = true;
  }
  if (mutation == Mutation::kStorePinDropped) {
    faults.few_slots = faults.delays = faults.stragglers = faults.worker_crashes = true;
  }
  if (mutation == Mutation::kPackedEarly) faults.few_pages = faults.delays = true;
  faults.corruption |= mutation == Mutation::kGapAccepted;
  if (mutation == Mutation::kStaleLeaderObeyed || mutation == Mutation::kKeyTakenBlindly) {
    faults.partitions = faults.freezes = true;
  }
  if (mutation == Mutation::kKeyTakenBlindly) faults.delays = faults.coordinator_restarts = true;
  if (mutation == Mutation::kEpochGoesOn) {
    faults.coordinator_restarts = faults.drops = faults.link_breaks = faults.partitions = true;
  }
  if (mutation == Mutation::kFenceRemoved || mutation == Mutation::kTailUnchecked) {
    faults.link_breaks = faults.delays = true;
  }
  if (mutation == Mutation::kFenceRemoved) faults.stragglers = faults.partitions = true;
  return faults;
}

}  // namespace

Cluster::Cluster(const RunOptions& options)
    : plan_(options.seed),
      faults_(FaultsFor(plan_, options.mutation)),
      world_(options.seed, options.verbose),
      network_(world_, faults_),
      context_(world_, network_, faults_, options.mutation),
      journal_(context_),
      etcd_(world_, options.mutation == Mutation::kKeyTakenBlindly),
      clients_(context_, journal_, [this] { return Gateways(); }) {
  context_.journal = &journal_;
  const bool grouped = (plan_.Chance(0.5) && !context_.mutated(Mutation::kEpochGoesOn)) ||
                       context_.mutated(Mutation::kStaleLeaderObeyed) ||
                       context_.mutated(Mutation::kKeyTakenBlindly);
  context_.coordinators.resize(grouped ? 2 + plan_.Below(2) : 1);
  context_.on_emit = [this](const worker::Emit& emit, const std::vector<worker::NodeRef>& stores) {
    CheckWatermark(emit, stores);
  };
  peers_.worker = [this](const NodeKey& key) -> SimWorker* {
    for (const WorkerSlot& slot : workers_) {
      if (slot.now != nullptr && slot.now->key() == key) return slot.now;
    }
    return nullptr;
  };
  peers_.store = [this](const NodeKey& key) -> SimStore* {
    for (const StoreSlot& slot : stores_) {
      if (slot.now != nullptr && slot.now->key() == key) return slot.now;
    }
    return nullptr;
  };
  world_.SetChecker([this](Pid pid) { Check(pid); });
  workers_.resize(3);
  stores_.resize(3);
  gateways_.resize(2);
  for (size_t i = 0; i < gateways_.size(); ++i) gateways_[i].name = absl::StrCat("gateway", i);
  const int32_t pages = faults_.few_pages ? 48 : 160;
  for (size_t i = 0; i < workers_.size(); ++i) {
    WorkerSize& size = workers_[i].size;
    workers_[i].name = absl::StrCat("worker", i);
    size.pages = pages;
    size.can_decode = i > 0;
    size.chunk_tokens = 1 + static_cast<int32_t>(plan_.Below(16));
    size.layer_time = static_cast<TimeNs>(200 * kMicrosecond + plan_.Below(3 * kMillisecond));
  }
  if (faults_.slow_worker) {
    workers_[plan_.Below(workers_.size())].size.layer_time *= 10;
    world_.Note(Injected::kSlowWorker);
  }
  for (size_t i = 0; i < stores_.size(); ++i) {
    stores_[i].name = absl::StrCat("store", i);
    stores_[i].size = faults_.few_slots ? StoreSize{16, 40} : StoreSize{256, 512};
  }
}

Cluster::~Cluster() = default;

void Cluster::StartWorker(WorkerSlot& slot) {
  const NodeKey key{slot.name, next_incarnation_++};
  all_workers_.push_back(std::make_unique<SimWorker>(context_, key, slot.size, peers_));
  slot.now = all_workers_.back().get();
  worker_of_[slot.now->pid()] = slot.now;
}

void Cluster::StartStore(StoreSlot& slot) {
  const NodeKey key{slot.name, next_incarnation_++};
  all_stores_.push_back(std::make_unique<SimStore>(context_, key, slot.size, &slot.disk));
  slot.now = all_stores_.back().get();
  store_of_[slot.now->pid()] = slot.now;
}

void Cluster::StartCoordinator(size_t index) {
  SimEtcd* const etcd = context_.coordinators.size() > 1 ? &etcd_ : nullptr;
  all_coordinators_.push_back(
      std::make_unique<SimCoordinator>(context_, index, next_incarnation_++, etcd));
  context_.coordinators[index] = all_coordinators_.back().get();
}

void Cluster::StartGateway(GatewaySlot& slot) {
  const NodeKey key{slot.name, next_incarnation_++};
  all_gateways_.push_back(std::make_unique<SimGateway>(context_, key, peers_));
  slot.now = all_gateways_.back().get();
}

// Null when none leads.
SimCoordinator* Cluster::Leader() const {
  for (SimCoordinator* const coordinator : context_.coordinators) {
    if (coordinator != nullptr && coordinator->leads()) return coordinator;
  }
  return nullptr;
}

std::vector<SimGateway*> Cluster::Gateways() const {
  std::vector<SimGateway*> living;
  for (const GatewaySlot& slot : gateways_) {
    if (slot.now != nullptr) living.push_back(slot.now);
  }
  return living;
}

// Clients ----------------------------------------------------------------------------------------

ClientRequest Cluster::DrawRequest(int number) {
  const auto token = [this] {
    return static_cast<int32_t>(plan_.Below(static_cast<uint64_t>(context_.model.vocab_size)));
  };
  ClientRequest request;
  request.id = absl::StrCat("r", number);
  if (plan_.Chance(0.3)) request.tenant = "tenant";
  const std::vector<int32_t>& family = families_[plan_.Below(families_.size())];
  const size_t shared = plan_.Chance(0.8) ? plan_.Below(family.size() + 1) : 0;
  request.prompt.assign(family.begin(), family.begin() + static_cast<std::ptrdiff_t>(shared));
  for (uint64_t i = plan_.Below(12) + 1; i > 0; --i) request.prompt.push_back(token());
  worker::SamplingParams& sampling = request.sampling;
  sampling.seed = plan_.Next();
  sampling.n = plan_.Chance(0.7) ? 1 : 2 + static_cast<int32_t>(plan_.Below(2));
  // As long as the context, and three branches the pages, allow.
  const bool is_long = faults_.long_requests && !faults_.few_pages;
  sampling.max_tokens = 1 + static_cast<int32_t>(plan_.Below(is_long ? 100 : 32));
  sampling.min_tokens = static_cast<int32_t>(plan_.Below(4));
  for (int i = 0; i < 12; ++i) sampling.eos_ids.push_back(token());
  for (int i = 0; i < 4; ++i) sampling.stop_ids.push_back(token());
  if (faults_.deadlines && plan_.Chance(0.4)) {
    request.deadline = static_cast<TimeNs>(100 * kMillisecond + plan_.Below(3 * kSecond));
  }
  if (plan_.Chance(0.7)) {
    request.resume_window = static_cast<TimeNs>(kSecond + plan_.Below(3 * kSecond));
    request.handle_only = plan_.Chance(0.2);
  }
  return request;
}

void Cluster::Workload() {
  families_.resize(3);
  for (std::vector<int32_t>& family : families_) {
    for (uint64_t i = 8 + plan_.Below(32); i > 0; --i) {
      family.push_back(static_cast<int32_t>(plan_.Below(997)));
    }
  }
  arrivals_ = 20 + static_cast<int>(plan_.Below(60));
  const int requests = arrivals_;
  for (int i = 0; i < requests; ++i) {
    const ClientRequest request = DrawRequest(i);
    const auto at =
        static_cast<TimeNs>(400 * kMillisecond + plan_.Below(static_cast<uint64_t>(kFaultsEnd)));
    world_.After(at, {"client", 0, 0, static_cast<uint64_t>(i)}, [this, request] {
      --arrivals_;
      clients_.Submit(request);
    });
  }
}

// The history ------------------------------------------------------------------------------------

RunResult Cluster::Run() {
  for (size_t i = 0; i < context_.coordinators.size(); ++i) StartCoordinator(i);
  for (StoreSlot& slot : stores_) StartStore(slot);
  for (WorkerSlot& slot : workers_) StartWorker(slot);
  for (GatewaySlot& slot : gateways_) StartGateway(slot);
  Workload();
  if (faults_.any_process()) ScheduleFault();
  world_.RunUntil(kFaultsEnd);
  StopFaults();
  const TimeNs limit = world_.now() + kLivenessLimit;
  const auto open = [this] {
    return arrivals_ > 0 || clients_.waiting() > 0 || journal_.open() > 0;
  };
  while (!world_.failure() && world_.now() < limit && open()) {
    world_.RunUntil(world_.now() + 100 * kMillisecond);
  }
  if (open()) {
    world_.Fail(absl::StrCat("streams still open ", SecondsFromNs(kLivenessLimit),
                             " s after the last fault: ", journal_.OpenIds()));
  }
  world_.RunUntil(world_.now() + kSettle);
  if (!world_.failure()) CheckQuiet();
  if (!world_.failure()) CheckIndex();
  if (!world_.failure() && faults_.calm()) CheckCalm();
  return Result();
}

// Checks -----------------------------------------------------------------------------------------

void Cluster::Check(Pid pid) {
  if (const auto worker = worker_of_.find(pid); worker != worker_of_.end()) {
    worker->second->Check();
  } else if (const auto store = store_of_.find(pid); store != store_of_.end()) {
    store->second->Check();
  }
}

void Cluster::CheckQuiet() {
  for (const WorkerSlot& slot : workers_) slot.now->CheckQuiet();
  for (const StoreSlot& slot : stores_) slot.now->CheckQuiet();
  for (const auto& gateway : all_gateways_) {
    if (gateway->totals().violations != 0) {
      world_.Fail("a worker contradicted itself or a promise");
    }
  }
  for (const GatewaySlot& slot : gateways_) {
    if (slot.now->sessions() != 0) world_.Fail(absl::StrCat(slot.name, " has sessions left"));
  }
}

// What a worker says that its replicas hold is what they hold, every byte: unless they failed
// since, or know of a later attempt.
void Cluster::CheckWatermark(const worker::Emit& emit, const std::vector<worker::NodeRef>& stores) {
  if (emit.watermark <= 0 || emit.done || world_.failure()) return;
  if (emit.key.attempt != journal_.Highest(emit.key.id)) return;
  // Looking is dear: one in a few is enough.
  if (++emits_ % 3 != 0) return;
  const ClientRequest& request = journal_.Request(emit.key.id);
  for (const worker::NodeRef& ref : stores) {
    const SimStore* const store = peers_.store(ref.key);
    if (store == nullptr) continue;
    for (const worker::BranchToken& token : emit.tokens) {
      // Only live branches count.
      const bool ended = std::any_of(emit.ended.begin(), emit.ended.end(),
                                     [&](const auto& end) { return end.branch == token.branch; });
      if (ended) continue;
      const std::vector<int32_t> tokens = journal_.Tokens(emit.key.id, token.branch);
      const std::string wrong =
          store->CheckHeld(emit.key, token.branch, request.tenant, tokens,
                           static_cast<int64_t>(request.prompt.size()), emit.watermark);
      ++totals_.watermarks_checked;
      if (wrong.empty()) continue;
      return world_.Fail(absl::StrCat("request ", emit.key.id, ", branch ", token.branch,
                                      ": the watermark says ", emit.watermark, " rows, but of ",
                                      ref.key.name, " ", wrong));
    }
  }
}

// What the coordinator says of live nodes is what they hold.
void Cluster::CheckIndex() {
  SimCoordinator* const leader = Leader();
  if (leader == nullptr) return world_.Fail("no coordinator leads");
  std::map<NodeKey, const kv::EventLog*> logs;
  for (const WorkerSlot& slot : workers_) logs[slot.now->key()] = &slot.now->events();
  for (const StoreSlot& slot : stores_) logs[slot.now->key()] = &slot.now->core().events();
  for (const coordinator::NodeSummary& node : leader->Nodes()) {
    const NodeKey& key = node.node.ref.key;
    if (node.node.role == coordinator::Role::kGateway) continue;
    const auto log = logs.find(key);
    if (log == logs.end() || node.state != coordinator::NodeState::kLive) {
      return world_.Fail(absl::StrCat("the coordinator has ", key.name, " as ",
                                      coordinator::StateName(node.state), ": ", node.reason));
    }
    if (node.indexed_blocks != static_cast<int64_t>(log->second->listed())) {
      return world_.Fail(absl::StrCat("the coordinator indexes ", node.indexed_blocks,
                                      " blocks of ", key.name, ", which lists ",
                                      log->second->listed()));
    }
  }
  int probes = 0;
  for (const ClientRequest& request : journal_.requests()) {
    kv::ChainContext chain = context_.chain;
    chain.tenant_salt = request.tenant;
    coordinator::PlaceQuery query;
    query.request_id = absl::StrCat("probe", probes++);
    query.format_digest = context_.chain.format_digest;
    query.block_ids = kv::ChainIds(chain, request.prompt);
    query.prompt_tokens = static_cast<int32_t>(request.prompt.size());
    query.max_tokens = 1;
    const auto answer = leader->OnPlace(query);
    if (!answer.ok()) return world_.Fail(answer.status().ToString());
    const auto* placement = std::get_if<coordinator::Placement>(&*answer);
    if (placement == nullptr) {
      // Earlier probes are still counted as on their way.
      const auto& refusal = std::get<coordinator::Refusal>(*answer);
      if (refusal.code == coordinator::RefusalCode::kNoRoom) continue;
      return world_.Fail(absl::StrCat("an idle cluster refuses a request: ", refusal.detail));
    }
    for (const coordinator::PrefixSource& source : placement->sources) {
      const auto first = static_cast<size_t>(source.first_block);
      for (size_t i = first; i < first + static_cast<size_t>(source.blocks); ++i) {
        if (logs.at(source.node.key)->Lists(query.block_ids.at(i))) continue;
        return world_.Fail(
            absl::StrCat("the index claims a block that ", source.node.key.name, " does not hold"));
      }
    }
  }
}

// Where nothing goes wrong, nothing may be lost on the way.
void Cluster::CheckCalm() {
  for (const WorkerSlot& slot : workers_) {
    const KvStats& stats = slot.now->stream().stats();
    if (slot.now->worst_lag() > kCalmLag && !faults_.few_slots) {
      world_.Fail(absl::StrCat("in a calm history replicas of ", slot.name, " lagged ",
                               MsFromNs(slot.now->worst_lag()), " ms"));
    }
    if (slot.now->core().stats().legs_failed != 0 || stats.timed_out != 0) {
      world_.Fail(absl::StrCat("in a calm history ", slot.name, " lost ",
                               slot.now->core().stats().legs_failed, " legs and ", stats.timed_out,
                               " fetches timed out"));
    }
  }
  for (const StoreSlot& slot : stores_) {
    if (slot.now->stream().stats().timed_out != 0) {
      world_.Fail(absl::StrCat("in a calm history a fetch of ", slot.name, " timed out"));
    }
  }
}

RunResult RunSeed(const RunOptions& options) {
  Cluster cluster(options);
  return cluster.Run();
}

}  // namespace reprise::sim
