#include "coordinator/server/convert.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/limits.h"

namespace reprise::coordinator {
namespace {

// Larger counts of tokens or blocks describe no machine; sums of millions of them still fit.
constexpr int64_t kCountMax = int64_t{1} << 40;
constexpr int64_t kBytesMax = int64_t{1} << 50;

Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("MALFORMED: ", what));
}

Status CheckRange(const char* field, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return Malformed(absl::StrCat(field, " is ", value, ", allowed are ", min, " to ", max));
}

Status CheckBytes(const char* field, const std::string& value, size_t min, size_t max) {
  if (value.size() >= min && value.size() <= max) return absl::OkStatus();
  return Malformed(
      absl::StrCat(field, " has ", value.size(), " bytes, allowed are ", min, " to ", max));
}

template <typename Array>
Status CopyExactly(const char* field, const std::string& value, Array& out) {
  RETURN_IF_ERROR(CheckBytes(field, value, out.size(), out.size()));
  std::memcpy(out.data(), value.data(), out.size());
  return absl::OkStatus();
}

StatusOr<std::vector<kv::BlockId>> ParseIds(const char* field, const std::string& packed,
                                            size_t ids_max) {
  auto ids = kv::UnpackIds(packed, ids_max);
  if (!ids.ok()) return Malformed(absl::StrCat(field, ": ", ids.status().message()));
  return ids;
}

StatusOr<NodeKey> ParseKey(const v1::NodeRef& message) {
  RETURN_IF_ERROR(CheckBytes("node name", message.name(), 1, limits::kNodeNameBytesMax));
  if (message.incarnation() == 0) return Malformed("the incarnation is zero");
  return NodeKey{message.name(), message.incarnation()};
}

StatusOr<NodeRef> ParseRef(const v1::NodeRef& message) {
  NodeRef ref;
  ASSIGN_OR_RETURN(ref.key, ParseKey(message));
  RETURN_IF_ERROR(CheckBytes("grpc_address", message.grpc_address(), 0, limits::kAddressBytesMax));
  RETURN_IF_ERROR(CheckBytes("kv_address", message.kv_address(), 0, limits::kAddressBytesMax));
  ref.grpc_address = message.grpc_address();
  ref.kv_address = message.kv_address();
  return ref;
}

StatusOr<ModelInfo> ParseModel(const v1::ModelInfo& message) {
  ModelInfo model;
  RETURN_IF_ERROR(CheckBytes("model name", message.name(), 0, limits::kAddressBytesMax));
  RETURN_IF_ERROR(CheckBytes("format_text", message.format_text(), 0, limits::kFormatTextBytesMax));
  RETURN_IF_ERROR(CopyExactly("fingerprint", message.fingerprint(), model.fingerprint));
  RETURN_IF_ERROR(CopyExactly("numerics_class", message.numerics_class(), model.numerics_class));
  RETURN_IF_ERROR(CopyExactly("format_digest", message.format_digest(), model.format_digest));
  RETURN_IF_ERROR(CheckRange("block_tokens", message.block_tokens(), 1, limits::kBlockTokensMax));
  RETURN_IF_ERROR(CheckRange("vocab_size", message.vocab_size(), 0, limits::kVocabMax));
  RETURN_IF_ERROR(
      CheckRange("context_tokens", message.context_tokens(), 1, limits::kContextTokensMax));
  RETURN_IF_ERROR(CheckRange("block_bytes", message.block_bytes(), 0, kCountMax));
  model.name = message.name();
  model.format_text = message.format_text();
  model.block_tokens = message.block_tokens();
  model.vocab_size = message.vocab_size();
  model.context_tokens = message.context_tokens();
  model.block_bytes = message.block_bytes();
  model.two_forms = message.two_forms();
  return model;
}

StatusOr<Role> ParseRole(v1::Role role) {
  switch (role) {
    case v1::ROLE_GATEWAY:
      return Role::kGateway;
    case v1::ROLE_WORKER:
      return Role::kWorker;
    case v1::ROLE_STORE:
      return Role::kStore;
    default:
      return Malformed(absl::StrCat("role is ", static_cast<int>(role)));
  }
}

v1::Role ToProto(Role role) {
  switch (role) {
    case Role::kGateway:
      return v1::ROLE_GATEWAY;
    case Role::kWorker:
      return v1::ROLE_WORKER;
    case Role::kStore:
      return v1::ROLE_STORE;
  }
  return v1::ROLE_UNSPECIFIED;
}

StatusOr<kv::GroupSplit> ParseGroup(const v1::GroupShape& message) {
  const kv::GroupSplit group{.pipeline = message.pipeline(),
                             .tensor = message.tensor(),
                             .context = message.context(),
                             .stripe_leaves = message.stripe_leaves()};
  if (const Status status = kv::CheckRanks(group); !status.ok()) return Malformed(status.message());
  RETURN_IF_ERROR(CheckRange("stripe_leaves", group.stripe_leaves, 1, limits::kStripeLeavesMax));
  return group;
}

StatusOr<NodeInfo> ParseNode(const v1::NodeInfo& message) {
  NodeInfo node;
  ASSIGN_OR_RETURN(node.ref, ParseRef(message.ref()));
  ASSIGN_OR_RETURN(node.role, ParseRole(message.role()));
  RETURN_IF_ERROR(
      CheckBytes("metrics_address", message.metrics_address(), 0, limits::kAddressBytesMax));
  RETURN_IF_ERROR(
      CheckBytes("failure_domain", message.failure_domain(), 0, limits::kNodeNameBytesMax));
  node.metrics_address = message.metrics_address();
  node.failure_domain = message.failure_domain();
  node.can_prefill = message.can_prefill();
  node.can_decode = message.can_decode();
  if (message.has_group()) {
    if (node.role != Role::kWorker) {
      return Malformed(absl::StrCat("a ", RoleName(node.role), " reports a group of ranks"));
    }
    ASSIGN_OR_RETURN(node.group, ParseGroup(message.group()));
  }
  if (node.role == Role::kGateway) return node;
  ASSIGN_OR_RETURN(node.model, ParseModel(message.model()));
  return node;
}

StatusOr<Load> ParseLoad(const v1::Load& message) {
  constexpr int64_t kRequestsMax = 1 << 24;
  RETURN_IF_ERROR(CheckRange("running", message.running(), 0, kRequestsMax));
  RETURN_IF_ERROR(CheckRange("waiting", message.waiting(), 0, kRequestsMax));
  RETURN_IF_ERROR(
      CheckRange("queued_prefill_tokens", message.queued_prefill_tokens(), 0, kCountMax));
  RETURN_IF_ERROR(CheckRange("blocks_total", message.blocks_total(), 0, kCountMax));
  RETURN_IF_ERROR(CheckRange("blocks_free", message.blocks_free(), 0, kCountMax));
  RETURN_IF_ERROR(CheckRange("blocks_cached", message.blocks_cached(), 0, kCountMax));
  RETURN_IF_ERROR(CheckRange("blocks_quarantined", message.blocks_quarantined(), 0, kCountMax));
  if (!std::isfinite(message.step_ms()) || message.step_ms() < 0) {
    return Malformed("step_ms is negative or not finite");
  }
  // Below -1 is no age, and an age beyond all counting is one that never ended.
  RETURN_IF_ERROR(CheckRange("probe_age_ms", message.probe_age_ms(), -1, kCountMax));
  RETURN_IF_ERROR(CheckRange("stranded_bytes", message.stranded_bytes(), 0, kBytesMax));
  RETURN_IF_ERROR(CheckRange("unreachable", message.unreachable_size(), 0, limits::kNodesMax));
  for (const std::string& name : message.unreachable()) {
    RETURN_IF_ERROR(CheckBytes("unreachable node name", name, 1, limits::kNodeNameBytesMax));
  }
  return Load{.running = message.running(),
              .waiting = message.waiting(),
              .queued_prefill_tokens = message.queued_prefill_tokens(),
              .blocks_total = message.blocks_total(),
              .blocks_free = message.blocks_free(),
              .blocks_cached = message.blocks_cached(),
              .blocks_quarantined = message.blocks_quarantined(),
              .progress = message.progress(),
              .busy = message.busy(),
              .step_ms = message.step_ms(),
              .probe_age_ms = message.probe_age_ms(),
              .unreachable = {message.unreachable().begin(), message.unreachable().end()},
              .stranded_bytes = message.stranded_bytes()};
}

StatusOr<KvEvents> ParseEvents(const v1::KvEvents& message) {
  KvEvents events{.first = message.first()};
  RETURN_IF_ERROR(CheckRange("events", message.events_size(), 0, limits::kReportEventsMax));
  if (events.first == 0 || events.first > std::numeric_limits<uint64_t>::max() / 2) {
    return Malformed(absl::StrCat("the first event's number is ", events.first));
  }
  events.events.reserve(static_cast<size_t>(message.events_size()));
  for (const v1::KvEvent& event : message.events()) {
    kv::KvEvent& out = events.events.emplace_back();
    out.removed = event.removed();
    RETURN_IF_ERROR(CopyExactly("event id", event.id(), out.id.bytes));
  }
  return events;
}

StatusOr<kv::SnapshotChunk> ParseSnapshot(const v1::KvSnapshot& message) {
  if (message.as_of() > std::numeric_limits<uint64_t>::max() / 2) {
    return Malformed(absl::StrCat("the snapshot is as of event ", message.as_of()));
  }
  kv::SnapshotChunk chunk{
      .as_of = message.as_of(), .chunk = message.chunk(), .last = message.last(), .ids = {}};
  ASSIGN_OR_RETURN(chunk.ids,
                   ParseIds("snapshot ids", message.ids(), limits::kSnapshotChunkBlocks));
  return chunk;
}

// Absent when the field is empty.
Status ParseDigest(const char* field, const std::string& bytes, std::optional<Digest256>& out) {
  if (bytes.empty()) return absl::OkStatus();
  return CopyExactly(field, bytes, out.emplace());
}

Attempt FromProto(const v1::Attempt& message) { return {message.owner_epoch(), message.n()}; }

StatusOr<std::string> ParseRequestId(const std::string& id) {
  RETURN_IF_ERROR(CheckBytes("request_id", id, 1, limits::kRequestIdBytesMax));
  return id;
}

template <typename Refs>
Status ParseKeys(const char* field, const Refs& refs, size_t max, std::vector<NodeKey>& out) {
  RETURN_IF_ERROR(CheckRange(field, refs.size(), 0, static_cast<int64_t>(max)));
  for (const v1::NodeRef& ref : refs) {
    ASSIGN_OR_RETURN(out.emplace_back(), ParseKey(ref));
  }
  return absl::OkStatus();
}

// What is to be placed.
Status ParseSize(const v1::PlaceRequest& message, PlaceQuery& query) {
  RETURN_IF_ERROR(CopyExactly("format_digest", message.format_digest(), query.format_digest));
  ASSIGN_OR_RETURN(query.block_ids,
                   ParseIds("block_ids", message.block_ids(), limits::kPlaceBlocksMax));
  RETURN_IF_ERROR(
      CheckRange("prompt_tokens", message.prompt_tokens(), 1, limits::kPromptTokensMax));
  RETURN_IF_ERROR(
      CheckRange("emitted_tokens", message.emitted_tokens(), 0, limits::kPromptTokensMax));
  RETURN_IF_ERROR(CheckRange("max_tokens", message.max_tokens(), 1, limits::kPromptTokensMax));
  RETURN_IF_ERROR(CheckRange("branches", message.branches(), 1, limits::kBranchesMax));
  query.prompt_tokens = message.prompt_tokens();
  query.emitted_tokens = message.emitted_tokens();
  query.max_tokens = message.max_tokens();
  query.branches = message.branches();
  return absl::OkStatus();
}

void Fill(const NodeRef& ref, v1::NodeRef* message) {
  message->set_name(ref.key.name);
  message->set_incarnation(ref.key.incarnation);
  message->set_grpc_address(ref.grpc_address);
  message->set_kv_address(ref.kv_address);
}

void Fill(const kv::GroupSplit& group, v1::GroupShape* message) {
  message->set_pipeline(group.pipeline);
  message->set_context(group.context);
  message->set_tensor(group.tensor);
  message->set_stripe_leaves(group.stripe_leaves);
}

void Fill(const Load& load, v1::Load* message) {
  message->set_running(load.running);
  message->set_waiting(load.waiting);
  message->set_queued_prefill_tokens(load.queued_prefill_tokens);
  message->set_blocks_total(load.blocks_total);
  message->set_blocks_free(load.blocks_free);
  message->set_blocks_cached(load.blocks_cached);
  message->set_blocks_quarantined(load.blocks_quarantined);
  message->set_progress(load.progress);
  message->set_busy(load.busy);
  message->set_step_ms(load.step_ms);
  message->set_probe_age_ms(load.probe_age_ms);
  for (const std::string& name : load.unreachable) message->add_unreachable(name);
  message->set_stranded_bytes(load.stranded_bytes);
}

}  // namespace

StatusOr<Report> ParseReport(const v1::ReportRequest& message) {
  Report report;
  ASSIGN_OR_RETURN(report.node, ParseNode(message.node()));
  if (message.sequence() == 0) return Malformed("the report's sequence is zero");
  report.sequence = message.sequence();
  ASSIGN_OR_RETURN(report.load, ParseLoad(message.load()));
  if (message.has_events() && message.events().events_size() > 0) {
    ASSIGN_OR_RETURN(report.events, ParseEvents(message.events()));
  }
  if (message.has_snapshot()) {
    ASSIGN_OR_RETURN(report.snapshot, ParseSnapshot(message.snapshot()));
  }
  report.leaving = message.leaving();
  RETURN_IF_ERROR(CheckRange("requests", message.requests_size(), 0, limits::kReportRequestsMax));
  for (const v1::RequestReport& request : message.requests()) {
    RequestReport& out = report.requests.emplace_back();
    ASSIGN_OR_RETURN(out.request_id, ParseRequestId(request.request_id()));
    out.attempt = FromProto(request.attempt());
    RETURN_IF_ERROR(ParseDigest("handle_digest", request.handle_digest(), out.handle_digest));
    out.decoding = request.decoding();
    out.crashes = request.crashes();
  }
  report.stores_version = message.stores_version();
  report.verdicts_version = message.verdicts_version();
  if (message.leader_epoch() > limits::kLeaderEpochMax) {
    return Malformed(absl::StrCat("leader_epoch is ", message.leader_epoch(), ", the limit is ",
                                  limits::kLeaderEpochMax));
  }
  report.leader_epoch = message.leader_epoch();
  return report;
}

StatusOr<PlaceQuery> ParsePlaceQuery(const v1::PlaceRequest& message) {
  PlaceQuery query;
  ASSIGN_OR_RETURN(query.request_id, ParseRequestId(message.request_id()));
  if (message.has_previous()) query.previous = FromProto(message.previous());
  // Further legs of an attempt are the decode worker's to order.
  RETURN_IF_ERROR(CheckRange("leg", message.leg(), 0, 0));
  RETURN_IF_ERROR(ParseDigest("handle_digest", message.handle_digest(), query.handle_digest));
  query.attach = message.attach();
  query.crashes = message.crashes();
  RETURN_IF_ERROR(ParseKeys("avoid", message.avoid(), limits::kPlaceAvoidMax, query.avoid));
  RETURN_IF_ERROR(
      ParseKeys("replicas", message.replicas(), limits::kPlaceReplicasMax, query.replicas));
  RETURN_IF_ERROR(
      CheckRange("replica_stores", message.replica_stores(), -1, limits::kReplicaStoresMax));
  query.replica_stores = message.replica_stores();
  if (query.attach && !query.handle_digest) return Malformed("an attach has no handle_digest");
  // Whoever has the handle alone cannot have it placed, only ask where it runs.
  if (query.attach && message.prompt_tokens() == 0) return query;
  RETURN_IF_ERROR(ParseSize(message, query));
  return query;
}

StatusOr<LeaderRecord> ParseLead(const v1::LeadRequest& message) {
  RETURN_IF_ERROR(CheckRange("epoch", static_cast<int64_t>(message.epoch()), 1,
                             static_cast<int64_t>(limits::kLeaderEpochMax)));
  RETURN_IF_ERROR(CheckBytes("name", message.name(), 1, limits::kNodeNameBytesMax));
  RETURN_IF_ERROR(CheckBytes("grpc_address", message.grpc_address(), 1, limits::kAddressBytesMax));
  return LeaderRecord{message.epoch(), message.name(), message.grpc_address()};
}

Status CheckDrain(const v1::DrainRequest& message) {
  RETURN_IF_ERROR(CheckBytes("node name", message.name(), 1, limits::kNodeNameBytesMax));
  return CheckRange("deadline_ms", message.deadline_ms(), 0, limits::kDeadlineMsMax);
}

void Fill(const ReportAnswer& answer, v1::ReportResponse* message) {
  message->set_coordinator_incarnation(answer.coordinator_incarnation);
  message->set_next_event(answer.next_event);
  message->set_want_snapshot(answer.want_snapshot);
  message->set_report_interval_ms(answer.report_interval_ms);
  message->set_leader_epoch(answer.leader_epoch);
  message->set_standby(answer.standby);
  message->set_drain(answer.drain);
  message->set_drain_deadline_ms(answer.drain_deadline_ms);
  if (answer.stores) {
    message->set_stores_version(answer.stores->version);
    for (const StoreInfo& store : answer.stores->items) {
      v1::StoreInfo* out = message->add_stores();
      Fill(store.ref, out->mutable_ref());
      out->set_failure_domain(store.failure_domain);
    }
  }
  if (answer.verdicts) {
    message->set_verdicts_version(answer.verdicts->version);
    for (const Verdict& verdict : answer.verdicts->items) {
      v1::Verdict* out = message->add_verdicts();
      out->mutable_node()->set_name(verdict.node.name);
      out->mutable_node()->set_incarnation(verdict.node.incarnation);
      out->set_reason(verdict.reason);
    }
  }
  if (answer.roles) {
    message->mutable_roles()->set_prefill(answer.roles->prefill);
    message->mutable_roles()->set_decode(answer.roles->decode);
  }
}

void Fill(const Placement& placement, v1::PlaceResponse* message) {
  message->mutable_attempt()->set_owner_epoch(placement.attempt.owner_epoch);
  message->mutable_attempt()->set_n(placement.attempt.n);
  message->set_leader_epoch(placement.leader_epoch);
  if (placement.running) {
    Fill(*placement.running, message->mutable_running());
    return;
  }
  message->set_alone(placement.alone);
  Fill(placement.decode, message->mutable_decode());
  if (placement.prefill) Fill(*placement.prefill, message->mutable_prefill());
  for (const PrefixSource& source : placement.sources) {
    v1::PrefixSource* out = message->add_sources();
    Fill(source.node, out->mutable_node());
    out->set_first_block(source.first_block);
    out->set_blocks(source.blocks);
  }
  for (const NodeRef& store : placement.stores) Fill(store, message->add_stores());
  message->set_replica_stores(placement.replica_stores);
}

void Fill(const ModelInfo& model, v1::ModelInfo* message) {
  const auto bytes = [](const Digest256& digest) {
    return std::string(digest.begin(), digest.end());
  };
  message->set_name(model.name);
  message->set_fingerprint(bytes(model.fingerprint));
  message->set_numerics_class(bytes(model.numerics_class));
  message->set_format_digest(bytes(model.format_digest));
  message->set_format_text(model.format_text);
  message->set_block_tokens(model.block_tokens);
  message->set_vocab_size(model.vocab_size);
  message->set_context_tokens(model.context_tokens);
  message->set_block_bytes(model.block_bytes);
  message->set_two_forms(model.two_forms);
}

void Fill(const NodeSummary& node, v1::NodeStatus* message) {
  v1::NodeInfo* info = message->mutable_node();
  Fill(node.node.ref, info->mutable_ref());
  info->set_role(ToProto(node.node.role));
  info->set_metrics_address(node.node.metrics_address);
  info->set_failure_domain(node.node.failure_domain);
  info->set_can_prefill(node.node.can_prefill);
  info->set_can_decode(node.node.can_decode);
  if (node.node.role != Role::kGateway) Fill(node.node.model, info->mutable_model());
  if (node.node.group.ranks() > 1) Fill(node.node.group, info->mutable_group());
  Fill(node.load, message->mutable_load());
  message->set_last_report_ms_ago(node.last_report_ms_ago);
  message->set_state(StateName(node.state));
  message->set_indexed_blocks(node.indexed_blocks);
  message->set_reason(node.reason);
}

}  // namespace reprise::coordinator
