#include "tests/simulation/sim_gateway.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "tests/simulation/sim_coordinator.h"

namespace reprise::sim {
namespace {

constexpr TimeNs kPlaceTimeout = 5 * kSecond;
constexpr int64_t kRetryAfterMs = 1000;

worker::NodeRef RefOf(const coordinator::NodeRef& ref) { return {ref.key, "", ""}; }

gateway::SessionSpec SpecOf(const ClientRequest& request, const Context& context) {
  gateway::SessionSpec spec;
  spec.n = request.sampling.n;
  spec.prompt_tokens = static_cast<int32_t>(request.prompt.size());
  spec.vocab_size = context.model.vocab_size;
  spec.max_tokens = request.sampling.max_tokens;
  spec.stop_ids = request.sampling.stop_ids;
  spec.eos_ids = request.sampling.eos_ids;
  if (request.deadline != 0) spec.deadline = context.world.now() + request.deadline;
  spec.jitter_seed = Digest().Text(request.id).value();
  return spec;
}

worker::Submit SubmitOf(const ClientRequest& request, const coordinator::Placement& placement,
                        std::span<const gateway::BranchState> branches) {
  worker::Submit submit;
  submit.key = {request.id, placement.attempt};
  submit.prompt = request.prompt;
  submit.sampling = request.sampling;
  submit.tenant = request.tenant;
  for (const gateway::BranchState& branch : branches) {
    submit.branches.push_back({branch.tokens, branch.ended()});
  }
  if (placement.prefill) submit.prefill = RefOf(*placement.prefill);
  for (const coordinator::PrefixSource& source : placement.sources) {
    submit.sources.push_back({RefOf(source.node), source.first_block, source.blocks});
  }
  for (const coordinator::NodeRef& store : placement.stores) submit.stores.push_back(RefOf(store));
  return submit;
}

}  // namespace

SimGateway::SimGateway(Context& context, const NodeKey& key, const Peers& peers, Journal& journal,
                       std::function<void(const ClientRequest&)> refused)
    : context_(context),
      world_(context.world),
      key_(key),
      pid_(context.world.Spawn(key.name)),
      peers_(peers),
      journal_(journal),
      refused_(std::move(refused)),
      reports_(
          context, pid_, info(),
          [this](coordinator::Report& report) {
            report.load.running = static_cast<int32_t>(sessions_.size());
            if (!tell_requests_) return;
            for (const auto& [id, session] : sessions_) {
              if (session.core->state() != gateway::SessionCore::State::kStreaming) continue;
              report.requests.push_back({id, session.placement.attempt});
            }
          },
          [this](const coordinator::ReportAnswer& answer) {
            tell_requests_ = answer.coordinator_incarnation != coordinator_;
            coordinator_ = answer.coordinator_incarnation;
            if (tell_requests_) reports_.Wake();
            AskVerdicts();
          }) {
  reports_.Start();
}

coordinator::NodeInfo SimGateway::info() const {
  coordinator::NodeInfo info;
  info.ref.key = key_;
  info.role = coordinator::Role::kGateway;
  return info;
}

std::vector<std::string> SimGateway::Running() const {
  std::vector<std::string> ids;
  for (const auto& [id, session] : sessions_) ids.push_back(id);
  return ids;
}

void SimGateway::Generate(const ClientRequest& request) {
  Session& session = sessions_[request.id];
  session.request = request;
  session.core = std::make_unique<gateway::SessionCore>(SpecOf(request, context_));
  Do(request.id, [this](auto& core, auto& actions) { core.Start(world_.now(), actions); });
}

void SimGateway::Cancel(const std::string& id) {
  journal_.CancelAsked(id);
  Do(id, [](auto& core, auto& actions) { core.OnClientCancel(actions); });
}

void SimGateway::Do(const std::string& id, const SessionEvent& event) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  gateway::Actions actions;
  event(*found->second.core, actions);
  Carry(found->second, actions);
}

void SimGateway::Carry(Session& session, const gateway::Actions& actions) {
  const std::string& id = session.request.id;
  if (actions.accept) journal_.Accepted(id);
  for (const gateway::TokenEvent& token : actions.deliver) journal_.Token(id, token);
  for (const gateway::BranchEnd& end : actions.branches_ended) journal_.BranchEnded(id, end);
  if (actions.cancel) CancelAtWorker(session, *actions.cancel);
  if (actions.place) Place(session, *actions.place);
  if (actions.submit) Submit(session, *actions.submit);
  if (actions.finish) return Finish(session, *actions.finish);
  ArmTimer(session);
}

void SimGateway::ArmTimer(Session& session) {
  const TimeNs wake = session.core->next_wake();
  if (wake == gateway::kNever) return;
  const uint64_t timer = ++session.timer;
  world_.After(std::max<TimeNs>(0, wake - world_.now()), {"session_timer", pid_, pid_, 0},
               [this, id = session.request.id, timer] {
                 const auto found = sessions_.find(id);
                 if (found == sessions_.end() || found->second.timer != timer) return;
                 Do(id, [this](auto& core, auto& actions) { core.OnTick(world_.now(), actions); });
               });
}

void SimGateway::Place(Session& session, const gateway::AskPlacement& ask) {
  const std::string id = session.request.id;
  const auto refuse = [this, id, ask = ask.ask](const gateway::Refusal& refusal) {
    world_.Trace("placement of ", id, " refused: ", refusal.status.ToString());
    Do(id, [&](auto& core, auto& actions) {
      core.OnPlaceRefused(ask, refusal, world_.now(), actions);
    });
  };
  const auto away = [refuse](const Status& status) {
    refuse({absl::UnavailableError(absl::StrCat("coordinator unreachable: ", status.message())),
            kRetryAfterMs});
  };
  SimCoordinator* const coordinator = context_.coordinator;
  if (coordinator == nullptr) {
    world_.After(kMillisecond, {"unreachable", pid_, pid_, ask.ask},
                 [away] { away(absl::UnavailableError("connection refused")); });
    return;
  }
  coordinator::PlaceQuery query;
  query.request_id = id;
  query.previous = ask.previous;
  query.format_digest = context_.chain.format_digest;
  query.prompt_tokens = static_cast<int32_t>(session.request.prompt.size());
  query.emitted_tokens = ask.emitted_tokens;
  query.max_tokens = session.request.sampling.max_tokens;
  query.branches = session.request.sampling.n;
  query.avoid.assign(session.core->avoid().begin(), session.core->avoid().end());
  std::vector<int32_t> held = session.request.prompt;
  for (const gateway::BranchState& branch : session.core->branches()) {
    if (static_cast<int32_t>(branch.tokens.size()) != ask.emitted_tokens) continue;
    held.insert(held.end(), branch.tokens.begin(), branch.tokens.end());
    break;
  }
  kv::ChainContext chain = context_.chain;
  chain.tenant_salt = session.request.tenant;
  query.block_ids = kv::ChainIds(chain, held);
  context_.network.Call({
      .label = {"place", pid_, coordinator->pid(), Digest().Text(id).U64(ask.ask).value()},
      .timeout = kPlaceTimeout,
      .serve = [this, id, coordinator, query, refuse, ask = ask.ask]() -> Network::Reply {
        auto result = coordinator->OnPlace(query);
        if (auto* refusal = std::get_if<coordinator::Refusal>(&result)) {
          gateway::Refusal told{coordinator::ToStatus(*refusal), {}};
          if (refusal->retry_after_ms > 0) told.retry_after_ms = refusal->retry_after_ms;
          return [refuse, told] { refuse(told); };
        }
        return [this, id, ask, placement = std::get<coordinator::Placement>(result)] {
          const auto found = sessions_.find(id);
          if (found == sessions_.end()) return;
          journal_.Granted(id, placement.attempt);
          found->second.placement = placement;
          Do(id, [&](auto& core, auto& actions) {
            core.OnPlaced(ask, {placement.attempt, placement.decode.key}, world_.now(), actions);
          });
        };
      },
      .failed = away,
  });
}

void SimGateway::Submit(Session& session, const gateway::SubmitAttempt& submit) {
  const coordinator::Placement& placement = session.placement;
  world_.Trace(session.request.id, " attempt (", placement.attempt.owner_epoch, ", ",
               placement.attempt.n, ") at ", placement.decode.key.name, ", prefill ",
               placement.prefill ? placement.prefill->key.name : "there", ", ",
               placement.sources.size(), " sources");
  SimWorker* const worker = peers_.worker(submit.placement.worker);
  if (worker == nullptr) {
    session.link = 0;
    world_.After(kMillisecond, {"refused", pid_, pid_, 0},
                 [this, id = session.request.id, attempt = submit.placement.attempt] {
                   Do(id, [&](auto& core, auto& actions) {
                     core.OnWorkerLost(attempt, absl::UnavailableError("connection refused"),
                                       world_.now(), actions);
                   });
                 });
    return;
  }
  session.link = LinkTo(*worker);
  const Label label{"submit", pid_, worker->pid(),
                    Digest().Key({session.request.id, placement.attempt}).value()};
  context_.network.Send(session.link, label,
                        [worker, link = session.link, remaining_ms = submit.remaining_ms,
                         message = SubmitOf(session.request, placement, session.core->branches())] {
                          worker->OnSubmit(link, message, remaining_ms);
                        });
}

void SimGateway::CancelAtWorker(Session& session, const gateway::CancelWorker& cancel) {
  SimWorker* const worker = peers_.worker(cancel.placement.worker);
  const auto link = links_.find(cancel.placement.worker);
  if (worker == nullptr || link == links_.end()) return;
  worker::Cancel message{
      {session.request.id, cancel.placement.attempt},
      cancel.deadline ? worker::EndReason::kDeadline : worker::EndReason::kCancelled};
  context_.network.Send(link->second,
                        {"cancel", pid_, worker->pid(), Digest().Key(message.key).value()},
                        [worker, message] { worker->OnCancel(message); });
}

void SimGateway::Finish(Session& session, const gateway::SessionEnd& finish) {
  const ClientRequest request = session.request;
  const gateway::SessionCounters& counters = session.core->counters();
  totals_.stale_events += counters.stale_events;
  totals_.duplicates += counters.duplicates;
  totals_.gaps += counters.gaps;
  totals_.replacements += counters.replacements;
  totals_.refusals += counters.refusals;
  totals_.violations += counters.violations;
  world_.Trace(request.id, " finished: ", finish.status.ToString());
  journal_.Finished(request.id, finish);
  sessions_.erase(request.id);
  if (!finish.accepted) refused_(request);
}

// Links ------------------------------------------------------------------------------------------

StreamId SimGateway::LinkTo(SimWorker& worker) {
  const NodeKey key = worker.key();
  const auto found = links_.find(key);
  if (found != links_.end()) return found->second;
  auto link = std::make_shared<StreamId>(0);
  *link = context_.network.Connect("link", {pid_, [this, key] { OnLinkBroken(key); }},
                                   {worker.pid(), [&worker, link] { worker.OnLinkLost(*link); }});
  links_.emplace(key, *link);
  const auto deliver = [this, link = *link, from = worker.pid()](const worker::Emit& emit) {
    Digest digest;
    digest.Key(emit.key).U64(emit.done.has_value());
    for (const worker::BranchToken& token : emit.tokens) {
      digest.U64(token.branch).U64(token.index).U64(static_cast<uint64_t>(token.token.id));
    }
    context_.network.Send(link, {"tokens", from, pid_, digest.value()},
                          [this, emit] { OnEmit(emit); });
  };
  context_.network.Send(*link, {"hello", pid_, worker.pid(), *link},
                        [&worker, link = *link, deliver] { worker.OnLinkOpened(link, deliver); });
  return *link;
}

void SimGateway::OnLinkBroken(const NodeKey& worker) {
  const StreamId link = links_.at(worker);
  links_.erase(worker);
  if (context_.mutated(Mutation::kLinkLossNotTold)) return;
  for (const std::string& id : Running()) {
    const auto found = sessions_.find(id);
    if (found == sessions_.end() || found->second.link != link) continue;
    Do(id, [&](auto& core, auto& actions) {
      core.OnWorkerLost(found->second.placement.attempt,
                        absl::UnavailableError(absl::StrCat("worker ", worker.name, " lost")),
                        world_.now(), actions);
    });
  }
}

void SimGateway::OnEmit(const worker::Emit& emit) {
  const auto found = sessions_.find(emit.key.id);
  if (found == sessions_.end()) return;
  std::vector<gateway::TokenEvent> tokens;
  for (const worker::BranchToken& token : emit.tokens) {
    tokens.push_back({token.branch, token.index, token.token.id, token.token.logprob, 0});
  }
  std::vector<gateway::BranchEnd> ended;
  for (const worker::BranchEnd& end : emit.ended) {
    ended.push_back({end.branch, static_cast<gateway::EndReason>(end.reason)});
  }
  gateway::WorkerDone done;
  if (emit.done) done = {emit.done->status, emit.done->cached_tokens};
  const gateway::WorkerEvents events{.attempt = emit.key.attempt,
                                     .tokens = tokens,
                                     .ended = ended,
                                     .watermark = emit.watermark,
                                     .done = emit.done ? &done : nullptr};
  if (emit.done) world_.Trace(emit.key.id, " done: ", emit.done->status.ToString());
  Do(emit.key.id,
     [&](auto& core, auto& actions) { core.OnWorkerEvents(events, world_.now(), actions); });
}

// Verdicts ---------------------------------------------------------------------------------------

void SimGateway::AskVerdicts() {
  SimCoordinator* const coordinator = context_.coordinator;
  if (links_.empty() || coordinator == nullptr) return;
  context_.network.Call({
      .label = {"status", pid_, coordinator->pid(), 0},
      .serve = [this, coordinator]() -> Network::Reply {
        return [this, nodes = coordinator->Nodes()] { TakeVerdicts(nodes); };
      },
      .failed = [](const Status&) {},
  });
}

// As CoordinatorLink::TakeVerdicts.
void SimGateway::TakeVerdicts(const std::vector<coordinator::NodeSummary>& nodes) {
  for (const auto& [worker, link] : links_) {
    bool dead = false;
    bool alive = false;
    for (const coordinator::NodeSummary& node : nodes) {
      if (node.node.ref.key.name != worker.name) continue;
      const bool same = node.node.ref.key.incarnation == worker.incarnation;
      if (same && node.state != coordinator::NodeState::kDead) alive = true;
      if (same ? node.state == coordinator::NodeState::kDead
               : node.state == coordinator::NodeState::kLive) {
        dead = true;
      }
    }
    if (dead && !alive) context_.network.Break(link);
  }
}

}  // namespace reprise::sim
