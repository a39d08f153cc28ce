#include "gateway/server/session_messages.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "common/grpc_status.h"
#include "common/limits.h"
#include "common/random.h"
#include "common/sha256.h"

namespace reprise::gateway {

std::string DrawHandle() {
  const auto bytes = RandomBytes16();
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::string HandleDigest(const std::string& handle) {
  const Digest256 digest = Sha256().Update(handle).Finish();
  return std::string(digest.begin(), digest.end());
}

Attempt FromProto(const v1::Attempt& attempt) { return {attempt.owner_epoch(), attempt.n()}; }

void ToProto(const Attempt& attempt, v1::Attempt* out) {
  out->set_owner_epoch(attempt.owner_epoch);
  out->set_n(attempt.n);
}

Status StatusOf(const v1::WorkerDone& done) {
  if (done.code() == 0) return absl::OkStatus();
  return FromGrpc(grpc::Status(static_cast<grpc::StatusCode>(done.code()), done.message()));
}

SessionSpec MakeSpec(const ValidatedRequest& request, const ModelSnapshot& model,
                     int32_t attempts_max, TimeNs arrived) {
  const v1::ResolvedSampling& sampling = request.sampling;
  SessionSpec spec;
  spec.n =
      request.has_input ? sampling.n() : std::max(1, static_cast<int32_t>(request.received.size()));
  spec.prompt_tokens = static_cast<int32_t>(request.prompt.size());
  spec.vocab_size = model.served.vocab_size;
  spec.max_tokens = sampling.max_tokens();
  spec.stop_ids.assign(sampling.stop_ids().begin(), sampling.stop_ids().end());
  spec.eos_ids.assign(sampling.eos_ids().begin(), sampling.eos_ids().end());
  spec.deadline = arrived + NsFromMs(request.deadline_ms);
  spec.resumable = request.resume_window_ms > 0;
  spec.resume = request.resume;
  spec.received = request.received;
  spec.has_input = request.has_input;
  spec.failures_max = attempts_max;
  spec.jitter_seed = RandomU64();
  return spec;
}

AttachedInfo ReadAttached(const v1::Attached& attached, const ValidatedRequest& request) {
  const v1::ResolvedSampling& sampling = attached.sampling();
  AttachedInfo info;
  info.n = sampling.n();
  info.prompt_tokens = attached.prompt_size();
  info.max_tokens = sampling.max_tokens();
  info.stop_ids.assign(sampling.stop_ids().begin(), sampling.stop_ids().end());
  info.eos_ids.assign(sampling.eos_ids().begin(), sampling.eos_ids().end());
  info.remaining_ms = attached.deadline_ms();
  info.contradicts_input =
      request.has_input && (sampling.seed() != request.sampling.seed() ||
                            !std::equal(attached.prompt().begin(), attached.prompt().end(),
                                        request.prompt.begin(), request.prompt.end()));
  return info;
}

v1::PlaceRequest PlaceMessage(const RequestFacts& facts, const SessionCore& core,
                              const AskPlacement& ask) {
  const ValidatedRequest& request = facts.request;
  v1::PlaceRequest place;
  place.set_request_id(request.request_id);
  if (ask.previous) ToProto(*ask.previous, place.mutable_previous());
  place.set_format_digest(facts.model.info.format_digest());
  // Of the longest branch: what the client of a resume has counts before any worker told of it.
  std::vector<int32_t> longest;
  for (size_t b = 0; b < core.branches().size(); ++b) {
    const auto& tokens = core.branches()[b].tokens;
    if (tokens.size() > longest.size()) longest = tokens;
    if (b >= request.received.size()) continue;
    if (request.received[b].size() > longest.size()) longest = request.received[b];
  }
  // Without its input a request can only be asked after: where it runs.
  if (request.has_input) {
    std::vector<int32_t> tokens = request.prompt;
    tokens.insert(tokens.end(), longest.begin(), longest.end());
    const int64_t prompt_end =
        facts.model.info.two_forms() ? static_cast<int64_t>(request.prompt.size()) : kv::kOneForm;
    place.set_block_ids(kv::PackIds(kv::ChainIds(facts.model.chain, tokens, prompt_end)));
    place.set_prompt_tokens(static_cast<int32_t>(request.prompt.size()));
    place.set_emitted_tokens(ask.emitted_tokens);
    place.set_max_tokens(request.sampling.max_tokens());
    place.set_branches(request.sampling.n());
  }
  for (const NodeKey& node : core.avoid()) {
    v1::NodeRef* avoid = place.add_avoid();
    avoid->set_name(node.name);
    avoid->set_incarnation(node.incarnation);
  }
  if (core.spec().resumable || ask.attach) place.set_handle_digest(HandleDigest(facts.handle));
  place.set_attach(ask.attach);
  *place.mutable_replicas() = facts.replicas;
  place.set_crashes(ask.crashes);
  place.set_replica_stores(request.replica_stores);
  return place;
}

v1::ServeRequest SubmitMessage(const RequestFacts& facts, const SessionCore& core,
                               const SubmitAttempt& submit, const v1::PlaceResponse& placed) {
  const ValidatedRequest& request = facts.request;
  v1::ServeRequest message;
  v1::Submit* out = message.mutable_submit();
  out->set_request_id(request.request_id);
  ToProto(submit.placement.attempt, out->mutable_attempt());
  out->set_worker_incarnation(submit.placement.worker.incarnation);
  out->mutable_prompt()->Add(request.prompt.begin(), request.prompt.end());
  *out->mutable_sampling() = request.sampling;
  if (core.continues()) {
    for (size_t b = 0; b < core.branches().size(); ++b) {
      const BranchState& branch = core.branches()[b];
      v1::BranchTokens* emitted = out->add_branches();
      emitted->set_branch(static_cast<int32_t>(b));
      emitted->mutable_emitted()->Add(branch.tokens.begin(), branch.tokens.end());
      for (const uint32_t bits : branch.logprob_bits) {
        emitted->add_logprobs(std::bit_cast<float>(bits));
      }
      emitted->set_finished(branch.ended());
    }
    // Who has only a transcript looks where the rule puts replicas: the placement's own stores.
    *out->mutable_replicas() = facts.replicas.empty() ? placed.stores() : facts.replicas;
  }
  if (placed.has_prefill()) *out->mutable_prefill() = placed.prefill();
  *out->mutable_sources() = placed.sources();
  *out->mutable_stores() = placed.stores();
  out->set_replica_stores(placed.replica_stores());
  out->set_deadline_ms(submit.remaining_ms);
  if (core.spec().resumable) {
    out->set_resume_handle(facts.handle);
    out->set_resume_window_ms(request.resume_window_ms);
  }
  out->set_leader_epoch(placed.leader_epoch());
  out->set_alone(placed.alone());
  return message;
}

v1::ServeRequest AttachMessage(const RequestFacts& facts, const Placement& placement,
                               const v1::PlaceResponse& placed) {
  v1::ServeRequest message;
  v1::Attach* out = message.mutable_attach();
  out->set_request_id(facts.request.request_id);
  ToProto(placement.attempt, out->mutable_attempt());
  out->set_worker_incarnation(placement.worker.incarnation);
  out->set_resume_handle(facts.handle);
  out->set_leader_epoch(placed.leader_epoch());
  return message;
}

v1::ServeRequest CancelMessage(const std::string& request_id, const CancelWorker& cancel) {
  v1::ServeRequest message;
  message.mutable_cancel()->set_request_id(request_id);
  ToProto(cancel.placement.attempt, message.mutable_cancel()->mutable_attempt());
  message.mutable_cancel()->set_deadline(cancel.deadline);
  return message;
}

v1::ServeRequest DetachMessage(const std::string& request_id, const Placement& placement) {
  v1::ServeRequest message;
  message.mutable_detach()->set_request_id(request_id);
  ToProto(placement.attempt, message.mutable_detach()->mutable_attempt());
  return message;
}

void KeepReplicas(const NodeRefs& stores, NodeRefs* replicas) {
  NodeRefs kept = stores;
  for (v1::NodeRef& before : *replicas) {
    if (kept.size() >= limits::kReplicaStoresMax) break;
    const bool listed = std::any_of(kept.begin(), kept.end(), [&](const v1::NodeRef& store) {
      return store.name() == before.name() && store.incarnation() == before.incarnation();
    });
    if (!listed) *kept.Add() = std::move(before);
  }
  replicas->Swap(&kept);
}

void FillAccepted(const RequestFacts& facts, v1::Accepted* out) {
  out->set_request_id(facts.request.request_id);
  out->set_seed(facts.request.sampling.seed());
  out->set_resume_handle(facts.handle);
  out->set_prompt_tokens(static_cast<int32_t>(facts.request.prompt.size()));
}

void FillBranchEnd(const BranchEnd& end, const SessionCore& core, v1::BranchFinished* out) {
  out->set_branch(static_cast<int32_t>(end.branch));
  out->set_reason(static_cast<v1::FinishReason>(end.reason));
  out->set_tokens(static_cast<int32_t>(core.branches()[end.branch].tokens.size()));
}

void FillFinished(const SessionEnd& finish, const SessionCore& core, v1::Finished* out) {
  out->mutable_usage()->set_prompt_tokens(finish.usage.prompt_tokens);
  out->mutable_usage()->set_cached_tokens(finish.usage.cached_tokens);
  out->mutable_usage()->set_generated_tokens(finish.usage.generated_tokens);
  out->mutable_usage()->set_attempts(finish.usage.attempts);
  for (const BranchEnd& branch : finish.branches) {
    FillBranchEnd(branch, core, out->add_branches());
  }
  out->set_code(static_cast<int32_t>(finish.status.code()));
  out->set_message(std::string(finish.status.message()));
}

}  // namespace reprise::gateway
