#include "tests/simulation/cluster.h"

#include <algorithm>
#include <utility>

namespace reprise::sim {
namespace {

// Mutations that only a certain fault brings to light.
Faults FaultsFor(SplitMix64& plan, Mutation mutation) {
  Faults faults = DrawFaults(plan);
  faults.corruption |= mutation == Mutation::kChecksumUnchecked;
  faults.stragglers |= mutation == Mutation::kFetchDoneBeforeQuiet;
  if (mutation == Mutation::kPageQuietAtOnce || mutation == Mutation::kUnlistForgotten) {
    faults.few_pages = faults.delays = true;
  }
  if (mutation == Mutation::kStorePinDropped) faults.few_slots = faults.delays = true;
  return faults;
}

}  // namespace

Cluster::Cluster(const RunOptions& options)
    : plan_(options.seed),
      faults_(FaultsFor(plan_, options.mutation)),
      world_(options.seed, options.verbose),
      network_(world_, faults_),
      context_(world_, network_, faults_, options.mutation),
      journal_(context_) {
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
  stores_.resize(2);
  const int32_t pages = faults_.few_pages ? 48 : 160;
  for (size_t i = 0; i < workers_.size(); ++i) {
    WorkerSize& size = workers_[i].size;
    workers_[i].name = absl::StrCat("worker", i);
    size.pages = pages;
    size.can_decode = i > 0;
    size.chunk_tokens = 1 + static_cast<int32_t>(plan_.Below(16));
    size.layer_time = static_cast<TimeNs>(200 * kMicrosecond + plan_.Below(3 * kMillisecond));
  }
  if (faults_.slow_worker) workers_[plan_.Below(workers_.size())].size.layer_time *= 10;
  for (size_t i = 0; i < stores_.size(); ++i) {
    stores_[i].name = absl::StrCat("store", i);
    stores_[i].size = faults_.few_slots ? StoreSize{10, 24} : StoreSize{256, 512};
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

void Cluster::StartCoordinator() {
  all_coordinators_.push_back(std::make_unique<SimCoordinator>(context_, next_incarnation_++));
  context_.coordinator = all_coordinators_.back().get();
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
  sampling.max_tokens = 1 + static_cast<int32_t>(plan_.Below(32));
  sampling.min_tokens = static_cast<int32_t>(plan_.Below(4));
  for (int i = 0; i < 12; ++i) sampling.eos_ids.push_back(token());
  for (int i = 0; i < 4; ++i) sampling.stop_ids.push_back(token());
  if (faults_.deadlines && plan_.Chance(0.4)) {
    request.deadline = static_cast<TimeNs>(100 * kMillisecond + plan_.Below(3 * kSecond));
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
    world_.After(at, {"client", 0, gateway_->pid(), static_cast<uint64_t>(i)}, [this, request] {
      --arrivals_;
      Submit(request);
    });
  }
}

void Cluster::Submit(const ClientRequest& request) {
  journal_.Submitted(request);
  gateway_->Generate(request);
}

// A client that was refused asks anew, under another id.
void Cluster::Again(const ClientRequest& request) {
  ++arrivals_;
  ClientRequest again = request;
  absl::StrAppend(&again.id, "'");
  world_.After(300 * kMillisecond, {"client", 0, gateway_->pid(), 0}, [this, again] {
    --arrivals_;
    Submit(again);
  });
}

// The history ------------------------------------------------------------------------------------

RunResult Cluster::Run() {
  StartCoordinator();
  for (StoreSlot& slot : stores_) StartStore(slot);
  for (WorkerSlot& slot : workers_) StartWorker(slot);
  gateway_ = std::make_unique<SimGateway>(context_, NodeKey{"gateway", next_incarnation_++}, peers_,
                                          journal_,
                                          [this](const ClientRequest& request) { Again(request); });
  Workload();
  if (faults_.any_process()) ScheduleFault();
  world_.RunUntil(kFaultsEnd);
  StopFaults();
  const TimeNs limit = world_.now() + kLivenessLimit;
  while (!world_.failure() && world_.now() < limit && (arrivals_ > 0 || journal_.open() > 0)) {
    world_.RunUntil(world_.now() + 100 * kMillisecond);
  }
  if (arrivals_ > 0 || journal_.open() > 0) {
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
  if (gateway_->totals().violations != 0) world_.Fail("a worker contradicted itself or a promise");
}

// What the coordinator says of live nodes is what they hold.
void Cluster::CheckIndex() {
  std::map<NodeKey, const kv::EventLog*> logs;
  for (const WorkerSlot& slot : workers_) logs[slot.now->key()] = &slot.now->events();
  for (const StoreSlot& slot : stores_) logs[slot.now->key()] = &slot.now->core().events();
  for (const coordinator::NodeSummary& node : context_.coordinator->Nodes()) {
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
    const auto answer = context_.coordinator->OnPlace(query);
    const auto* placement = std::get_if<coordinator::Placement>(&answer);
    if (placement == nullptr) {
      // Earlier probes are still counted as on their way.
      const auto& refusal = std::get<coordinator::Refusal>(answer);
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
