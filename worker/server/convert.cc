#include "worker/server/convert.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "common/limits.h"

namespace reprise::worker {
namespace {

Status CheckRange(const char* field, double value, double min, double max) {
  // Written so that NaN fails.
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, ", allowed are ", min, " to ", max));
}

Status CheckCount(const char* field, int64_t count, int64_t max) {
  if (count <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " has ", count, " entries, the limit is ", max));
}

Status CheckBytes(const char* field, const std::string& value, size_t min, size_t max) {
  if (value.size() >= min && value.size() <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " has ", value.size(), " bytes, allowed are ", min, " to ", max));
}

StatusOr<NodeRef> ParseNode(const v1::NodeRef& message) {
  RETURN_IF_ERROR(CheckBytes("node name", message.name(), 1, limits::kNodeNameBytesMax));
  RETURN_IF_ERROR(CheckBytes("grpc_address", message.grpc_address(), 0, limits::kAddressBytesMax));
  RETURN_IF_ERROR(CheckBytes("kv_address", message.kv_address(), 0, limits::kAddressBytesMax));
  if (message.incarnation() == 0) {
    return absl::InvalidArgumentError(absl::StrCat("node ", message.name(), " has no incarnation"));
  }
  return NodeRef{
      {message.name(), message.incarnation()}, message.grpc_address(), message.kv_address()};
}

template <typename Message>
Status ParsePlaces(const Message& message, std::vector<PrefixSource>* sources,
                   std::vector<NodeRef>* stores) {
  RETURN_IF_ERROR(CheckCount("sources", message.sources_size(), limits::kPlaceSourcesMax));
  RETURN_IF_ERROR(CheckCount("stores", message.stores_size(), limits::kReplicaStoresMax));
  for (const v1::PrefixSource& source : message.sources()) {
    RETURN_IF_ERROR(
        CheckRange("source.first_block", source.first_block(), 0, limits::kPromptTokensMax));
    RETURN_IF_ERROR(CheckRange("source.blocks", source.blocks(), 0, limits::kPromptTokensMax));
    ASSIGN_OR_RETURN(NodeRef node, ParseNode(source.node()));
    sources->push_back({std::move(node), source.first_block(), source.blocks()});
  }
  for (const v1::NodeRef& store : message.stores()) {
    ASSIGN_OR_RETURN(NodeRef node, ParseNode(store));
    stores->push_back(std::move(node));
  }
  return absl::OkStatus();
}

Status CheckSampling(const v1::ResolvedSampling& in) {
  RETURN_IF_ERROR(CheckRange("temperature", in.temperature(), 0, limits::kTemperatureMax));
  RETURN_IF_ERROR(CheckRange("top_k", in.top_k(), 0, INT32_MAX));
  RETURN_IF_ERROR(CheckRange("top_p", in.top_p(), 0, 1));
  RETURN_IF_ERROR(CheckRange("min_p", in.min_p(), 0, 1));
  RETURN_IF_ERROR(
      CheckRange("repetition_penalty", in.repetition_penalty(), 0, limits::kPenaltyMax));
  for (const auto& [field, value] : {std::pair("presence_penalty", in.presence_penalty()),
                                     {"frequency_penalty", in.frequency_penalty()}}) {
    RETURN_IF_ERROR(CheckRange(field, value, -limits::kPenaltyMax, limits::kPenaltyMax));
  }
  RETURN_IF_ERROR(CheckCount("logit_bias", in.logit_bias_size(), limits::kLogitBiasMax));
  for (const v1::LogitBias& bias : in.logit_bias()) {
    RETURN_IF_ERROR(CheckRange("logit_bias.token", bias.token(), 0, INT32_MAX));
    RETURN_IF_ERROR(CheckRange("logit_bias.bias", bias.bias(), -limits::kLogitBiasAbsMax,
                               limits::kLogitBiasAbsMax));
  }
  RETURN_IF_ERROR(CheckCount("stop_ids", in.stop_ids_size(), limits::kStopIdsMax));
  RETURN_IF_ERROR(CheckCount("eos_ids", in.eos_ids_size(), limits::kStopIdsMax));
  RETURN_IF_ERROR(CheckRange("max_tokens", in.max_tokens(), 1, INT32_MAX));
  RETURN_IF_ERROR(CheckRange("min_tokens", in.min_tokens(), 0, INT32_MAX));
  RETURN_IF_ERROR(CheckRange("top_logprobs", in.top_logprobs(), 0, limits::kTopLogprobsMax));
  return CheckRange("n", in.n(), 1, limits::kBranchesMax);
}

StatusOr<SamplingParams> ParseSampling(const v1::ResolvedSampling& in) {
  RETURN_IF_ERROR(CheckSampling(in));
  SamplingParams out;
  out.temperature = in.temperature();
  out.top_k = in.top_k();
  out.top_p = in.top_p();
  out.min_p = in.min_p();
  out.repetition_penalty = in.repetition_penalty();
  out.presence_penalty = in.presence_penalty();
  out.frequency_penalty = in.frequency_penalty();
  for (const v1::LogitBias& bias : in.logit_bias()) {
    out.logit_bias.emplace_back(bias.token(), bias.bias());
  }
  out.seed = in.seed();
  out.stop_ids.assign(in.stop_ids().begin(), in.stop_ids().end());
  out.eos_ids.assign(in.eos_ids().begin(), in.eos_ids().end());
  out.max_tokens = in.max_tokens();
  out.min_tokens = in.min_tokens();
  out.top_logprobs = in.top_logprobs();
  out.n = in.n();
  return out;
}

void FillSampling(const SamplingParams& in, v1::ResolvedSampling* out) {
  out->set_temperature(in.temperature);
  out->set_top_k(in.top_k);
  out->set_top_p(in.top_p);
  out->set_min_p(in.min_p);
  out->set_repetition_penalty(in.repetition_penalty);
  out->set_presence_penalty(in.presence_penalty);
  out->set_frequency_penalty(in.frequency_penalty);
  for (const auto& [token, bias] : in.logit_bias) {
    v1::LogitBias* entry = out->add_logit_bias();
    entry->set_token(token);
    entry->set_bias(bias);
  }
  out->set_seed(in.seed);
  out->mutable_stop_ids()->Add(in.stop_ids.begin(), in.stop_ids.end());
  out->mutable_eos_ids()->Add(in.eos_ids.begin(), in.eos_ids.end());
  out->set_max_tokens(in.max_tokens);
  out->set_min_tokens(in.min_tokens);
  out->set_top_logprobs(in.top_logprobs);
  out->set_n(in.n);
}

Status CheckHandle(const std::string& handle, bool required) {
  if (handle.size() == limits::kResumeHandleBytes || (handle.empty() && !required)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("resume_handle has ", handle.size(), " bytes, ",
                                                 limits::kResumeHandleBytes, " are needed"));
}

int64_t RemainingMs(TimeNs deadline_ns, TimeNs now) {
  if (deadline_ns == 0) return 0;
  return std::clamp<int64_t>((deadline_ns - now) / kMillisecond, 1, limits::kDeadlineMsMax);
}

StatusOr<TimeNs> ParseDeadline(int64_t deadline_ms, TimeNs now) {
  if (deadline_ms == 0) return 0;
  RETURN_IF_ERROR(CheckRange("deadline_ms", static_cast<double>(deadline_ms), 1,
                             static_cast<double>(limits::kDeadlineMsMax)));
  return now + NsFromMs(deadline_ms);
}

StatusOr<std::vector<BranchResume>> ParseBranches(const v1::Submit& message, int32_t n) {
  if (message.branches().empty()) return std::vector<BranchResume>();
  std::vector<BranchResume> branches(static_cast<size_t>(n));
  std::vector<bool> seen(branches.size());
  for (const v1::BranchTokens& branch : message.branches()) {
    RETURN_IF_ERROR(CheckRange("branches.branch", branch.branch(), 0, n - 1));
    const auto index = static_cast<size_t>(branch.branch());
    if (seen[index]) {
      return absl::InvalidArgumentError(absl::StrCat("branch ", index, " is given twice"));
    }
    seen[index] = true;
    branches[index].emitted.assign(branch.emitted().begin(), branch.emitted().end());
    if (branch.logprobs_size() != 0 && branch.logprobs_size() != branch.emitted_size()) {
      return absl::InvalidArgumentError(absl::StrCat("branch ", index, " has ",
                                                     branch.logprobs_size(), " logprobs for ",
                                                     branch.emitted_size(), " emitted tokens"));
    }
    branches[index].logprobs.assign(branch.logprobs().begin(), branch.logprobs().end());
    branches[index].finished = branch.finished();
  }
  return branches;
}

void FillToken(const SampledToken& token, uint32_t branch, uint32_t index,
               v1::WorkerToken* message) {
  message->set_branch(branch);
  message->set_index(index);
  message->set_id(token.id);
  message->set_logprob(token.logprob);
  for (const auto& [id, logprob] : token.top) {
    v1::TopLogprob* top = message->add_top();
    top->set_token(id);
    top->set_logprob(logprob);
  }
}

}  // namespace

StatusOr<RequestKey> ParseKey(const std::string& request_id, const v1::Attempt& attempt) {
  RETURN_IF_ERROR(CheckBytes("request_id", request_id, 1, limits::kRequestIdBytesMax));
  for (const char c : request_id) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-') {
      continue;
    }
    return absl::InvalidArgumentError(
        "request_id holds a character other than letters, digits, '.', '_' and '-'");
  }
  return RequestKey{request_id, {attempt.owner_epoch(), attempt.n()}};
}

StatusOr<Submit> ParseSubmit(const v1::Submit& message, TimeNs now) {
  Submit submit;
  ASSIGN_OR_RETURN(submit.key, ParseKey(message.request_id(), message.attempt()));
  RETURN_IF_ERROR(CheckRange("prompt tokens", message.prompt_size(), 1, limits::kPromptTokensMax));
  RETURN_IF_ERROR(CheckBytes("tenant", message.tenant(), 0, limits::kTenantSaltBytesMax));
  ASSIGN_OR_RETURN(submit.sampling, ParseSampling(message.sampling()));
  ASSIGN_OR_RETURN(submit.branches, ParseBranches(message, submit.sampling.n));
  ASSIGN_OR_RETURN(submit.deadline_ns, ParseDeadline(message.deadline_ms(), now));
  RETURN_IF_ERROR(ParsePlaces(message, &submit.sources, &submit.stores));
  if (message.has_prefill()) {
    ASSIGN_OR_RETURN(submit.prefill, ParseNode(message.prefill()));
  }
  RETURN_IF_ERROR(CheckCount("replicas", message.replicas_size(), limits::kReplicasNamedMax));
  for (const v1::NodeRef& replica : message.replicas()) {
    ASSIGN_OR_RETURN(NodeRef node, ParseNode(replica));
    submit.replicas.push_back(std::move(node));
  }
  RETURN_IF_ERROR(CheckHandle(message.resume_handle(), /*required=*/false));
  RETURN_IF_ERROR(CheckRange("resume_window_ms", static_cast<double>(message.resume_window_ms()), 0,
                             static_cast<double>(limits::kResumeWindowMsMax)));
  submit.resume_handle = message.resume_handle();
  // Without a handle nobody could come back.
  if (!submit.resume_handle.empty()) {
    submit.resume_window_ns = NsFromMs(message.resume_window_ms());
  }
  submit.alone = message.alone();
  RETURN_IF_ERROR(
      CheckRange("replica_stores", message.replica_stores(), 0, limits::kReplicaStoresMax));
  submit.replica_stores = message.replica_stores();
  submit.prompt.assign(message.prompt().begin(), message.prompt().end());
  submit.tenant = message.tenant();
  return submit;
}

StatusOr<Attach> ParseAttach(const v1::Attach& message) {
  Attach attach;
  ASSIGN_OR_RETURN(attach.key, ParseKey(message.request_id(), message.attempt()));
  RETURN_IF_ERROR(CheckHandle(message.resume_handle(), /*required=*/true));
  attach.resume_handle = message.resume_handle();
  return attach;
}

LiveStores ParseStores(const v1::ReportResponse& message) {
  LiveStores live;
  for (const v1::StoreInfo& info : message.stores()) {
    if (live.stores.size() >= limits::kStoresListedMax) break;
    StatusOr<NodeRef> node = ParseNode(info.ref());
    if (node.ok()) live.stores.push_back({*std::move(node), info.failure_domain()});
  }
  return live;
}

StatusOr<SubmitPrefill> ParsePrefill(const v1::PrefillRequest& message, TimeNs now) {
  SubmitPrefill leg;
  ASSIGN_OR_RETURN(leg.key, ParseKey(message.request_id(), message.attempt()));
  RETURN_IF_ERROR(CheckRange("leg", message.leg(), 0, INT32_MAX));
  RETURN_IF_ERROR(CheckRange("prompt tokens", message.prompt_size(), 1, limits::kPromptTokensMax));
  RETURN_IF_ERROR(CheckBytes("tenant", message.tenant(), 0, limits::kTenantSaltBytesMax));
  ASSIGN_OR_RETURN(leg.sampling, ParseSampling(message.sampling()));
  ASSIGN_OR_RETURN(leg.deadline_ns, ParseDeadline(message.deadline_ms(), now));
  RETURN_IF_ERROR(ParsePlaces(message, &leg.sources, &leg.stores));
  leg.leg = static_cast<uint32_t>(message.leg());
  leg.prompt.assign(message.prompt().begin(), message.prompt().end());
  leg.tenant = message.tenant();
  return leg;
}

StatusOr<PrefillReply> ParsePrefillResponse(const v1::PrefillResponse& message, int32_t n) {
  RETURN_IF_ERROR(
      CheckRange("cached_tokens", message.cached_tokens(), 0, limits::kPromptTokensMax));
  RETURN_IF_ERROR(CheckRange("first tokens", message.first_size(), n, n));
  PrefillReply reply;
  reply.cached_tokens = message.cached_tokens();
  for (int32_t b = 0; b < n; ++b) {
    const v1::WorkerToken& token = message.first(b);
    RETURN_IF_ERROR(CheckRange("first.branch", token.branch(), b, b));
    RETURN_IF_ERROR(CheckCount("first.top", token.top_size(), limits::kTopLogprobsMax));
    SampledToken& first = reply.first.emplace_back();
    first.id = token.id();
    first.logprob = token.logprob();
    for (const v1::TopLogprob& top : token.top())
      first.top.emplace_back(top.token(), top.logprob());
  }
  return reply;
}

void Fill(const Attempt& attempt, v1::Attempt* message) {
  message->set_owner_epoch(attempt.owner_epoch);
  message->set_n(attempt.n);
}

void Fill(const NodeRef& node, v1::NodeRef* message) {
  message->set_name(node.key.name);
  message->set_incarnation(node.key.incarnation);
  message->set_grpc_address(node.grpc_address);
  message->set_kv_address(node.kv_address);
}

void Fill(const Emit& emit, TimeNs now, v1::RequestEvent* message) {
  message->set_request_id(emit.key.id);
  Fill(emit.key.attempt, message->mutable_attempt());
  if (emit.attached) {
    v1::Attached* attached = message->mutable_attached();
    attached->mutable_prompt()->Add(emit.attached->prompt.begin(), emit.attached->prompt.end());
    FillSampling(emit.attached->sampling, attached->mutable_sampling());
    attached->set_resume_window_ms(emit.attached->resume_window_ns / kMillisecond);
    attached->set_deadline_ms(RemainingMs(emit.attached->deadline_ns, now));
    for (const NodeRef& store : emit.attached->stores) Fill(store, attached->add_stores());
  }
  if (emit.stores) {
    for (const NodeRef& store : *emit.stores) Fill(store, message->add_stores());
  }
  for (const BranchToken& token : emit.tokens) {
    FillToken(token.token, token.branch, token.index, message->add_tokens());
  }
  for (const BranchEnd& end : emit.ended) {
    v1::WorkerBranchEnd* ended = message->add_ended();
    ended->set_branch(end.branch);
    ended->set_reason(static_cast<v1::FinishReason>(end.reason));
  }
  message->set_watermark(emit.watermark);
  if (!emit.done) return;
  v1::WorkerDone* done = message->mutable_done();
  done->set_code(static_cast<int32_t>(emit.done->status.code()));
  done->set_message(std::string(emit.done->status.message()));
  done->set_cached_tokens(emit.done->cached_tokens);
}

void Fill(const CallPrefill& call, TimeNs now, v1::PrefillRequest* message) {
  const SubmitPrefill& leg = call.leg;
  message->set_request_id(leg.key.id);
  Fill(leg.key.attempt, message->mutable_attempt());
  message->set_leg(static_cast<int32_t>(leg.leg));
  message->set_worker_incarnation(call.node.key.incarnation);
  message->mutable_prompt()->Add(leg.prompt.begin(), leg.prompt.end());
  FillSampling(leg.sampling, message->mutable_sampling());
  for (const PrefixSource& source : leg.sources) {
    v1::PrefixSource* entry = message->add_sources();
    Fill(source.node, entry->mutable_node());
    entry->set_first_block(source.first_block);
    entry->set_blocks(source.blocks);
  }
  for (const NodeRef& store : leg.stores) Fill(store, message->add_stores());
  message->set_tenant(leg.tenant);
  message->set_deadline_ms(RemainingMs(leg.deadline_ns, now));
}

void Fill(const ReplyPrefill& reply, v1::PrefillResponse* message) {
  for (size_t b = 0; b < reply.first.size(); ++b) {
    FillToken(reply.first[b], static_cast<uint32_t>(b), 0, message->add_first());
  }
  message->set_cached_tokens(reply.cached_tokens);
}

}  // namespace reprise::worker
