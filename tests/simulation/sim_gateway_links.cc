// A simulated gateway's streams to workers: what it sends, what it hears, and when it gives one up.
#include <algorithm>
#include <bit>
#include <memory>
#include <utility>

#include "common/limits.h"
#include "tests/simulation/sim_gateway.h"

namespace reprise::sim {
namespace {

worker::NodeRef RefOf(const coordinator::NodeRef& ref) { return {ref.key, "", ""}; }

std::vector<worker::NodeRef> RefsOf(const std::vector<coordinator::NodeRef>& refs) {
  std::vector<worker::NodeRef> out;
  for (const coordinator::NodeRef& ref : refs) out.push_back(RefOf(ref));
  return out;
}

// The new ones, and of the earlier ones as many as fit.
void KeepReplicas(const std::vector<coordinator::NodeRef>& stores,
                  std::vector<coordinator::NodeRef>* replicas) {
  std::vector<coordinator::NodeRef> kept = stores;
  for (const coordinator::NodeRef& before : *replicas) {
    if (kept.size() >= limits::kReplicaStoresMax) break;
    const bool listed = std::any_of(kept.begin(), kept.end(),
                                    [&](const auto& store) { return store.key == before.key; });
    if (!listed) kept.push_back(before);
  }
  *replicas = std::move(kept);
}

}  // namespace

SimGateway::Link& SimGateway::LinkTo(SimWorker& worker) {
  const NodeKey key = worker.key();
  const auto found = links_.find(key);
  if (found != links_.end()) return found->second;
  auto id = std::make_shared<StreamId>(0);
  *id = context_.network.Connect("link", {pid_, [this, key, id] { OnLinkBroken(key, *id); }},
                                 {worker.pid(), [&worker, id] { worker.OnLinkLost(*id); }});
  Link& link = links_[key];
  link.stream = *id;
  const auto deliver = [this, key, stream = *id,
                        from = worker.pid()](const SimWorker::ServeMessage& message) {
    Digest digest;
    digest.U64(message.progress);
    if (message.emit) {
      digest.Key(message.emit->key).U64(message.emit->done.has_value());
      for (const worker::BranchToken& token : message.emit->tokens) {
        digest.U64(token.branch).U64(token.index).U64(static_cast<uint64_t>(token.token.id));
      }
    }
    context_.network.Send(stream,
                          {message.emit ? "tokens" : "heartbeat", from, pid_, digest.value()},
                          [this, key, stream, message] { OnServeMessage(key, stream, message); });
  };
  context_.network.Send(*id, {"hello", pid_, worker.pid(), *id},
                        [&worker, stream = *id, deliver] { worker.OnLinkOpened(stream, deliver); });
  return link;
}

// Null when the worker is not there: its loss is told soon.
SimWorker* SimGateway::LinkFor(Session& session, const NodeKey& key) {
  SimWorker* const worker = peers_.worker(key);
  if (worker == nullptr) {
    session.link = 0;
    world_.After(kMillisecond, {"refused", pid_, pid_, 0},
                 [this, id = session.call.request.id, serial = session.serial,
                  attempt = session.placement.attempt] {
                   Do(id, serial, [&](auto& core, auto& actions) {
                     core.OnWorkerLost(attempt, absl::UnavailableError("connection refused"), Now(),
                                       actions, gateway::Loss::kOther);
                   });
                 });
    return nullptr;
  }
  session.link = LinkTo(*worker).stream;
  Track(key, session.call.request.id, session.placement.attempt);
  return worker;
}

void SimGateway::Submit(Session& session, const gateway::SubmitAttempt& submit) {
  const coordinator::Placement& placement = session.placement;
  const ClientRequest& request = session.call.request;
  world_.Trace(request.id, " attempt (", placement.attempt.owner_epoch, ", ", placement.attempt.n,
               ") at ", placement.decode.key.name, ", prefill ",
               placement.prefill ? placement.prefill->key.name : "there", ", ",
               placement.sources.size(), " sources, ", placement.stores.size(), " stores");
  worker::Submit message;
  message.key = {request.id, placement.attempt};
  message.prompt = request.prompt;
  message.sampling = request.sampling;
  message.tenant = request.tenant;
  if (session.core->continues()) {
    for (const gateway::BranchState& branch : session.core->branches()) {
      worker::BranchResume& resume = message.branches.emplace_back();
      resume.emitted = branch.tokens;
      resume.finished = branch.ended();
      for (const uint32_t bits : branch.logprob_bits) {
        resume.logprobs.push_back(std::bit_cast<float>(bits));
      }
    }
    // Who has only a transcript looks where the rule puts replicas.
    message.replicas = RefsOf(session.replicas.empty() ? placement.stores : session.replicas);
  }
  if (placement.prefill) message.prefill = RefOf(*placement.prefill);
  for (const coordinator::PrefixSource& source : placement.sources) {
    message.sources.push_back({RefOf(source.node), source.first_block, source.blocks});
  }
  message.stores = RefsOf(placement.stores);
  message.alone = placement.alone;
  message.replica_stores = placement.replica_stores;
  if (session.core->spec().resumable) {
    message.resume_handle = session.call.handle;
    message.resume_window_ns = request.resume_window;
  }
  KeepReplicas(placement.stores, &session.replicas);
  SimWorker* const worker = LinkFor(session, submit.placement.worker);
  if (worker == nullptr) return;
  context_.network.Send(session.link,
                        {"submit", pid_, worker->pid(), Digest().Key(message.key).value()},
                        [worker, link = session.link, epoch = placement.leader_epoch,
                         remaining_ms = submit.remaining_ms, message = std::move(message)] {
                          worker->OnSubmit(link, message, remaining_ms, epoch);
                        });
}

void SimGateway::Attach(Session& session, const gateway::Placement& attach) {
  const worker::Attach message{{session.call.request.id, attach.attempt}, session.call.handle};
  world_.Trace(message.key.id, " attaches as (", attach.attempt.owner_epoch, ", ", attach.attempt.n,
               ") at ", attach.worker.name);
  SimWorker* const worker = LinkFor(session, attach.worker);
  if (worker == nullptr) return;
  context_.network.Send(session.link,
                        {"attach", pid_, worker->pid(), Digest().Key(message.key).value()},
                        [worker, link = session.link, epoch = session.placement.leader_epoch,
                         message] { worker->OnAttach(link, message, epoch); });
}

void SimGateway::CancelAtWorker(const std::string& id, const gateway::CancelWorker& cancel) {
  const auto link = links_.find(cancel.placement.worker);
  SimWorker* const worker = peers_.worker(cancel.placement.worker);
  if (worker == nullptr || link == links_.end()) return;
  Forget(link->second, id, cancel.placement.attempt);
  const worker::Cancel message{
      {id, cancel.placement.attempt},
      cancel.deadline ? worker::EndReason::kDeadline : worker::EndReason::kCancelled};
  context_.network.Send(link->second.stream,
                        {"cancel", pid_, worker->pid(), Digest().Key(message.key).value()},
                        [worker, message] { worker->OnCancel(message); });
}

void SimGateway::Detach(const std::string& id, const gateway::Placement& placement) {
  const auto link = links_.find(placement.worker);
  SimWorker* const worker = peers_.worker(placement.worker);
  if (worker == nullptr || link == links_.end()) return;
  Forget(link->second, id, placement.attempt);
  const RequestKey key{id, placement.attempt};
  context_.network.Send(link->second.stream,
                        {"detach", pid_, worker->pid(), Digest().Key(key).value()},
                        [worker, key] { worker->OnDetach(key); });
}

// Watching ---------------------------------------------------------------------------------------

void SimGateway::Track(const NodeKey& worker, const std::string& id, const Attempt& attempt) {
  Link& link = links_.at(worker);
  if (link.requests.empty()) link.watch.Begin(Now());
  link.requests[id] = attempt;
  if (std::exchange(link.ticking, true)) return;
  world_.After(gateway::LinkWatch::kTickNs, {"link_tick", pid_, pid_, link.stream},
               [this, worker, stream = link.stream] { TickLink(worker, stream); });
}

void SimGateway::Forget(Link& link, const std::string& id, const Attempt& attempt) {
  const auto found = link.requests.find(id);
  if (found == link.requests.end() || found->second != attempt) return;
  link.requests.erase(found);
  if (link.requests.empty()) link.watch.End();
}

void SimGateway::TickLink(const NodeKey& worker, StreamId stream) {
  const auto found = links_.find(worker);
  if (found == links_.end() || found->second.stream != stream) return;
  Link& link = found->second;
  link.ticking = !link.requests.empty();
  if (!link.ticking) return;
  const gateway::LinkWatch::Verdict verdict = link.watch.OnTick(Now());
  if (verdict == gateway::LinkWatch::Verdict::kSilent) {
    return FailLink(worker, absl::UnavailableError("nothing was heard of it"),
                    gateway::Loss::kOther);
  }
  if (verdict == gateway::LinkWatch::Verdict::kStuck) {
    return FailLink(worker, absl::UnavailableError("its step made no progress"),
                    gateway::Loss::kCrash);
  }
  world_.After(gateway::LinkWatch::kTickNs, {"link_tick", pid_, pid_, stream},
               [this, worker, stream] { TickLink(worker, stream); });
}

void SimGateway::FailLink(const NodeKey& worker, const Status& why, gateway::Loss loss) {
  const auto found = links_.find(worker);
  if (found == links_.end() || !found->second.why.ok()) return;
  world_.Trace(key_.name, " gives ", worker.name, " up: ", why.message());
  ++links_failed_;
  found->second.why = why;
  found->second.loss = loss;
  context_.network.BreakAt(found->second.stream, pid_);
}

void SimGateway::OnLinkBroken(const NodeKey& worker, StreamId stream) {
  const auto found = links_.find(worker);
  if (found == links_.end() || found->second.stream != stream) return;
  const Link link = found->second;
  links_.erase(found);
  if (context_.mutated(Mutation::kLinkLossNotTold)) return;
  const gateway::Loss loss = !link.why.ok() ? link.loss
                             : link.reached ? gateway::Loss::kCrash
                                            : gateway::Loss::kOther;
  std::vector<std::pair<std::string, uint64_t>> theirs;
  for (const auto& [id, session] : sessions_) {
    if (session.link == stream) theirs.emplace_back(id, session.serial);
  }
  for (const auto& [id, serial] : theirs) {
    const auto session = sessions_.find(id);
    if (session == sessions_.end()) continue;
    session->second.link = 0;
    Do(id, serial, [&](auto& core, auto& actions) {
      core.OnWorkerLost(session->second.placement.attempt,
                        absl::UnavailableError(absl::StrCat("worker ", worker.name, " lost")),
                        Now(), actions, loss);
    });
  }
}

void SimGateway::OnServeMessage(const NodeKey& worker, StreamId stream,
                                const SimWorker::ServeMessage& message) {
  const auto found = links_.find(worker);
  if (found == links_.end() || found->second.stream != stream) return;
  Link& link = found->second;
  link.reached = true;
  link.watch.OnMessage(message.progress, message.busy, true, Now());
  if (!message.emit) return;
  if (message.emit->done) Forget(link, message.emit->key.id, message.emit->key.attempt);
  OnEmit(*message.emit);
}

void SimGateway::OnEmit(const worker::Emit& emit) {
  const auto found = sessions_.find(emit.key.id);
  if (found == sessions_.end()) return;
  Session& session = found->second;
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
  gateway::AttachedInfo attached;
  if (emit.attached) {
    const worker::SamplingParams& sampling = emit.attached->sampling;
    const ClientRequest& asked = session.call.request;
    attached.n = sampling.n;
    attached.prompt_tokens = static_cast<int32_t>(emit.attached->prompt.size());
    attached.max_tokens = sampling.max_tokens;
    attached.stop_ids = sampling.stop_ids;
    attached.eos_ids = sampling.eos_ids;
    attached.remaining_ms = emit.attached->deadline_ns / kMillisecond;  // what is left, on the way
    attached.contradicts_input = session.call.has_input && (sampling.seed != asked.sampling.seed ||
                                                            emit.attached->prompt != asked.prompt);
  }
  if (emit.done) world_.Trace(emit.key.id, " done: ", emit.done->status.ToString());
  const bool current = emit.key.attempt == session.placement.attempt;
  if (emit.attached && current) {
    session.call.has_input = true;  // the worker told it
    session.replicas.clear();
    for (const worker::NodeRef& store : emit.attached->stores) {
      session.replicas.push_back({store.key, "", ""});
    }
  }
  if (emit.stores && current) {
    session.replicas.clear();
    for (const worker::NodeRef& store : *emit.stores) {
      session.replicas.push_back({store.key, "", ""});
    }
  }
  Apply(session, [&](auto& core, auto& actions) {
    core.OnWorkerEvents({.attempt = emit.key.attempt,
                         .tokens = tokens,
                         .ended = ended,
                         .watermark = emit.watermark,
                         .done = emit.done ? &done : nullptr,
                         .attached = emit.attached ? &attached : nullptr},
                        Now(), actions);
  });
}

void SimGateway::TakeVerdicts(const coordinator::ReportAnswer& answer) {
  if (!answer.verdicts) return;
  for (const coordinator::Verdict& verdict : answer.verdicts->items) {
    FailLink(verdict.node, absl::UnavailableError(verdict.reason),
             verdict.reason == "stuck" ? gateway::Loss::kCrash : gateway::Loss::kOther);
  }
}

}  // namespace reprise::sim
