#include "tests/simulation/sim_gateway.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "tests/simulation/sim_coordinator.h"

namespace reprise::sim {
namespace {

constexpr TimeNs kPlaceTimeout = 5 * kSecond;
constexpr TimeNs kTryTimeout = 500 * kMillisecond;  // of one of several coordinators
constexpr int64_t kRetryAfterMs = 1000;

gateway::SessionSpec SpecOf(const ClientCall& call, const Context& context, TimeNs now) {
  const ClientRequest& request = call.request;
  gateway::SessionSpec spec;
  spec.vocab_size = context.model.vocab_size;
  if (call.deadline_left != 0) spec.deadline = now + call.deadline_left;
  spec.resumable = request.resume_window > 0;
  spec.resume = call.resume;
  spec.received = call.received;
  spec.has_input = call.has_input;
  spec.jitter_seed = Digest().Text(request.id).U64(static_cast<uint64_t>(now)).value();
  spec.n = std::max(1, static_cast<int32_t>(call.received.size()));
  if (!call.has_input) return spec;
  spec.n = request.sampling.n;
  spec.prompt_tokens = static_cast<int32_t>(request.prompt.size());
  spec.max_tokens = request.sampling.max_tokens;
  spec.stop_ids = request.sampling.stop_ids;
  spec.eos_ids = request.sampling.eos_ids;
  return spec;
}

std::string HandleOf(const std::string& id) { return absl::StrCat("handle of ", id); }

}  // namespace

SimGateway::SimGateway(Context& context, const NodeKey& key, const Peers& peers)
    : context_(context),
      world_(context.world),
      key_(key),
      pid_(context.world.Spawn(key.name)),
      peers_(peers),
      coordinators_(context.coordinators.size()),
      tell_requests_(context.coordinators.size()),
      reports_(
          context, pid_, info(),
          {.fill = [this](size_t index, coordinator::Report& report) { FillReport(index, report); },
           .answered =
               [this](size_t index, const coordinator::ReportAnswer& answer) {
                 const uint64_t now = answer.coordinator_incarnation;
                 tell_requests_[index] = std::exchange(coordinators_[index], now) != now;
                 return bool{tell_requests_[index]};
               },
           .ordered = [this](size_t,
                             const coordinator::ReportAnswer& answer) { TakeVerdicts(answer); }}) {
  reports_.Start();
}

coordinator::NodeInfo SimGateway::info() const {
  coordinator::NodeInfo info;
  info.ref.key = key_;
  info.role = coordinator::Role::kGateway;
  return info;
}

void SimGateway::FillReport(size_t coordinator, coordinator::Report& report) {
  report.load.running = static_cast<int32_t>(sessions_.size());
  if (!tell_requests_[coordinator]) return;
  for (const auto& [id, session] : sessions_) {
    if (!session.core->at_worker()) continue;
    coordinator::RequestReport told{.request_id = id, .attempt = session.placement.attempt};
    if (session.core->spec().resumable) told.handle_digest = DigestOfHandle(session.call.handle);
    told.crashes = session.core->crashes();
    report.requests.push_back(std::move(told));
  }
}

// Clients ----------------------------------------------------------------------------------------

void SimGateway::OnGenerate(StreamId stream, const ClientCall& call,
                            std::shared_ptr<const ClientEvents> client) {
  const std::string& id = call.request.id;
  const auto before = sessions_.find(id);
  if (before != sessions_.end()) {
    // Its client came back to us before we noticed that it had gone.
    Apply(before->second, [](auto& core, auto& actions) {
      core.OnAbort(absl::AbortedError("the request was resumed by another stream"), actions);
    });
    if (sessions_.contains(id)) return world_.Fail("an aborted session goes on");
  }
  Session& session = sessions_[id];
  session.serial = next_serial_++;
  session.call = call;
  if (!call.resume) session.call.handle = HandleOf(id);
  session.client_stream = stream;
  session.client = std::move(client);
  session.core = std::make_unique<gateway::SessionCore>(SpecOf(call, context_, Now()));
  Apply(session, [this](auto& core, auto& actions) { core.Start(Now(), actions); });
}

void SimGateway::OnClientGone(StreamId stream) {
  for (auto& [id, session] : sessions_) {
    if (session.client_stream != stream) continue;
    session.client_gone = true;
    return Apply(session, [](auto& core, auto& actions) { core.OnClientGone(actions); });
  }
}

void SimGateway::OnCancel(const std::string& id) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  Apply(found->second, [](auto& core, auto& actions) { core.OnClientCancel(actions); });
}

void SimGateway::ToClient(const Session& session, const char* kind, uint64_t digest,
                          std::function<void(const ClientEvents&)> tell) {
  if (session.client_gone) return;
  context_.network.Send(session.client_stream, {kind, pid_, 0, digest},
                        [client = session.client, tell = std::move(tell)] { tell(*client); });
}

void SimGateway::Do(const std::string& id, uint64_t serial, const SessionEvent& event) {
  const auto found = sessions_.find(id);
  if (found != sessions_.end() && found->second.serial == serial) Apply(found->second, event);
}

void SimGateway::Apply(Session& session, const SessionEvent& event) {
  gateway::Actions actions;
  event(*session.core, actions);
  Carry(session, actions);
}

void SimGateway::Carry(Session& session, const gateway::Actions& actions) {
  const std::string& id = session.call.request.id;
  if (actions.resumed == gateway::Resumed::kAttach) ++attached_;
  if (actions.accept) {
    ToClient(session, "accepted", 0, [handle = session.call.handle](const ClientEvents& client) {
      client.accepted(handle);
    });
  }
  for (const gateway::TokenEvent& token : actions.deliver) {
    ToClient(session, "token", Digest().U64(token.branch).U64(token.index).value(),
             [token](const ClientEvents& client) { client.token(token); });
  }
  for (const gateway::BranchEnd& end : actions.branches_ended) {
    ToClient(session, "branch_ended", end.branch,
             [end](const ClientEvents& client) { client.branch_ended(end); });
  }
  if (actions.cancel) CancelAtWorker(id, *actions.cancel);
  if (actions.detach) Detach(id, *actions.detach);
  if (actions.place) Place(session, *actions.place);
  if (actions.attach) Attach(session, *actions.attach);
  if (actions.submit) Submit(session, *actions.submit);
  if (actions.finish) return Finish(session, *actions.finish);
  ArmTimer(session);
}

void SimGateway::ArmTimer(Session& session) {
  const TimeNs wake = session.core->next_wake();
  const uint64_t timer = ++session.timer;
  if (wake == gateway::kNever) return;
  world_.After(std::max<TimeNs>(0, wake - Now()), {"session_timer", pid_, pid_, 0},
               [this, id = session.call.request.id, serial = session.serial, timer] {
                 const auto found = sessions_.find(id);
                 if (found == sessions_.end() || found->second.timer != timer) return;
                 Do(id, serial, [this](auto& core, auto& actions) { core.OnTick(Now(), actions); });
               });
}

void SimGateway::Finish(Session& session, const gateway::SessionEnd& finish) {
  const std::string id = session.call.request.id;
  const gateway::SessionCounters& counters = session.core->counters();
  totals_.stale_events += counters.stale_events;
  totals_.duplicates += counters.duplicates;
  totals_.gaps += counters.gaps;
  totals_.replacements += counters.replacements;
  totals_.refusals += counters.refusals;
  totals_.violations += counters.violations;
  world_.Trace(id, " finished at ", key_.name, ": ", finish.status.ToString(),
               finish.goes_on ? ", it goes on" : "");
  if (finish.accepted && !finish.goes_on) {
    ToClient(session, "finished", 0,
             [finish](const ClientEvents& client) { client.finished(finish); });
  } else {
    ToClient(session, "stream_status", 0,
             [status = finish.status](const ClientEvents& client) { client.refused(status); });
  }
  sessions_.erase(id);
}

// Placements -------------------------------------------------------------------------------------

void SimGateway::Place(Session& session, const gateway::AskPlacement& ask) {
  const ClientRequest& request = session.call.request;
  Placing placing{.id = request.id, .serial = session.serial, .ask = ask.ask, .query = {}};
  coordinator::PlaceQuery& query = placing.query;
  query.request_id = request.id;
  query.previous = ask.previous;
  query.format_digest = context_.chain.format_digest;
  query.attach = ask.attach;
  query.crashes = ask.crashes;
  query.avoid.assign(session.core->avoid().begin(), session.core->avoid().end());
  for (const coordinator::NodeRef& store : session.replicas) query.replicas.push_back(store.key);
  if (session.core->spec().resumable || ask.attach) {
    query.handle_digest = DigestOfHandle(session.call.handle);
  }
  // Without its input a request can only be asked after: where it runs.
  if (session.core->spec().has_input) {
    std::vector<int32_t> longest;
    for (size_t b = 0; b < session.core->branches().size(); ++b) {
      const std::vector<int32_t>& tokens = session.core->branches()[b].tokens;
      if (tokens.size() > longest.size()) longest = tokens;
      if (b >= session.call.received.size()) continue;
      if (session.call.received[b].size() > longest.size()) longest = session.call.received[b];
    }
    std::vector<int32_t> held = request.prompt;
    held.insert(held.end(), longest.begin(), longest.end());
    kv::ChainContext chain = context_.chain;
    chain.tenant_salt = request.tenant;
    query.block_ids = kv::ChainIds(
        chain, held, context_.oracle.PromptEnd(static_cast<int64_t>(request.prompt.size())));
    query.prompt_tokens = static_cast<int32_t>(request.prompt.size());
    query.emitted_tokens = ask.emitted_tokens;
    query.max_tokens = request.sampling.max_tokens;
    query.branches = request.sampling.n;
  }
  placing.door = reports_.leader();
  Try(placing);
}

void SimGateway::Try(const Placing& placing) {
  SimCoordinator* const coordinator = context_.coordinators[placing.door];
  const auto away = [this, placing](const Status& status) { TryNext(placing, status); };
  if (coordinator == nullptr) {
    world_.After(kMillisecond, {"unreachable", pid_, pid_, placing.ask},
                 [away] { away(absl::UnavailableError("connection refused")); });
    return;
  }
  context_.network.Call({
      .label = {"place", pid_, coordinator->pid(),
                Digest().Text(placing.id).U64(placing.ask).value()},
      .timeout = context_.coordinators.size() > 1 ? kTryTimeout : kPlaceTimeout,
      .serve = [this, coordinator, placing, away]() -> Network::Reply {
        auto result = coordinator->OnPlace(placing.query);
        if (!result.ok()) return [away, status = result.status()] { away(status); };
        if (const auto* refusal = std::get_if<coordinator::Refusal>(&*result)) {
          gateway::Refusal told{coordinator::ToStatus(*refusal), {}};
          if (refusal->retry_after_ms > 0) told.retry_after_ms = refusal->retry_after_ms;
          return [this, placing, told] {
            world_.Trace("placement of ", placing.id, " refused: ", told.status.ToString());
            Do(placing.id, placing.serial, [&](auto& core, auto& actions) {
              core.OnPlaceRefused(placing.ask, told, Now(), actions);
            });
          };
        }
        return [this, placing, placement = std::get<coordinator::Placement>(*result)] {
          OnPlaced(placing, placement);
        };
      },
      .failed = away,
  });
}

// A coordinator that does not lead, or is away, sends us to the next.
void SimGateway::TryNext(Placing placing, const Status& why) {
  placing.door = (placing.door + 1) % context_.coordinators.size();
  if (++placing.tries < context_.coordinators.size()) return Try(placing);
  const gateway::Refusal refusal{
      absl::UnavailableError(absl::StrCat("coordinator unreachable: ", why.message())),
      kRetryAfterMs};
  Do(placing.id, placing.serial,
     [&](auto& core, auto& actions) { core.OnPlaceRefused(placing.ask, refusal, Now(), actions); });
}

void SimGateway::OnPlaced(const Placing& placing, const coordinator::Placement& placement) {
  if (!reports_.SawEpoch(placement.leader_epoch)) {
    return TryNext(placing, absl::UnavailableError("it leads no more"));
  }
  const auto found = sessions_.find(placing.id);
  if (found == sessions_.end() || found->second.serial != placing.serial) return;
  Session& session = found->second;
  context_.journal->Taken({placing.id, placement.attempt});
  session.placement = placement;
  const NodeKey& worker = placement.running ? placement.running->key : placement.decode.key;
  Apply(session, [&](auto& core, auto& actions) {
    core.OnPlaced(placing.ask, {placement.attempt, worker, placement.running.has_value()}, Now(),
                  actions);
  });
}

}  // namespace reprise::sim
