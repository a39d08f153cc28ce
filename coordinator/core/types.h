// What the coordinator's core reasons about: validated mirrors of proto/reprise/v1/cluster.proto,
// free of protobuf. Values; any thread.
#ifndef REPRISE_COORDINATOR_CORE_TYPES_H_
#define REPRISE_COORDINATOR_CORE_TYPES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/ids.h"
#include "common/sha256.h"
#include "kvstore/block/block_id.h"
#include "kvstore/block/event_log.h"
#include "kvstore/block/group_split.h"

namespace reprise::coordinator {

enum class Role { kGateway, kWorker, kStore };
enum class NodeState { kLive, kSuspect, kLeaving, kDead };

const char* RoleName(Role role);
const char* StateName(NodeState state);

// A node's dense number, reused after the node is forgotten.
using Slot = uint16_t;

struct NodeRef {
  NodeKey key;
  std::string grpc_address;
  std::string kv_address;
  bool operator==(const NodeRef&) const = default;
};

struct ModelInfo {
  std::string name;
  Digest256 fingerprint{};
  Digest256 numerics_class{};
  Digest256 format_digest{};
  std::string format_text;
  int32_t block_tokens = 0;
  int32_t vocab_size = 0;
  int32_t context_tokens = 0;
  int64_t block_bytes = 0;
  bool two_forms = false;
};

struct NodeInfo {
  NodeRef ref;
  Role role = Role::kGateway;
  std::string metrics_address;
  std::string failure_domain;  // empty: unknown
  bool can_prefill = false;
  bool can_decode = false;
  ModelInfo model;         // workers and stores
  kv::GroupSplit group{};  // a worker's ranks; all degrees 1: one process
};

struct Load {
  int32_t running = 0;
  int32_t waiting = 0;
  int64_t queued_prefill_tokens = 0;
  int64_t blocks_total = 0;
  int64_t blocks_free = 0;
  int64_t blocks_cached = 0;
  int64_t blocks_quarantined = 0;
  uint64_t progress = 0;
  bool busy = false;
  double step_ms = 0;
  // Since the node last moved a real block over its own and a peer's stream; -1: it does not probe.
  int64_t probe_age_ms = -1;
  std::vector<std::string> unreachable;  // names that did not answer its probe
  int64_t stranded_bytes = 0;            // held for requests that have ended
};

struct RequestReport {
  std::string request_id;
  Attempt attempt;
  std::optional<Digest256> handle_digest{};  // SHA-256 of the resume handle
  bool decoding = false;                     // here, so whoever attaches is sent here
  uint32_t crashes = 0;  // attempts that ended by a crash with this request in the step
};

struct KvEvents {
  uint64_t first = 1;
  std::vector<kv::KvEvent> events;
};

struct Report {
  NodeInfo node;
  uint64_t sequence = 0;
  Load load;
  std::optional<KvEvents> events;
  std::optional<kv::SnapshotChunk> snapshot;
  bool leaving = false;
  std::vector<RequestReport> requests;
  // What the node knows.
  uint64_t stores_version = 0;
  uint64_t verdicts_version = 0;
  uint64_t leader_epoch = 0;
};

struct StoreInfo {
  NodeRef ref;
  std::string failure_domain;
  bool operator==(const StoreInfo&) const = default;
};

// An incarnation given up: whoever has a stream to it fails that now.
struct Verdict {
  NodeKey node;
  std::string reason;  // silent, stuck, unreachable, replaced
  bool operator==(const Verdict&) const = default;
};

struct RoleOrder {
  bool prefill = true;
  bool decode = true;
  bool operator==(const RoleOrder&) const = default;
};

// A list that answers repeat only for nodes that know another version of it. Versions of two
// coordinators, or of two lives of one, differ.
template <typename T>
struct VersionedList {
  uint64_t version = 0;
  std::vector<T> items;
};

struct ReportAnswer {
  uint64_t coordinator_incarnation = 0;
  uint64_t next_event = 1;
  bool want_snapshot = false;
  int32_t report_interval_ms = 0;
  // Absent: as the node knows them.
  std::optional<VersionedList<StoreInfo>> stores{};  // live ones, ascending names
  std::optional<VersionedList<Verdict>> verdicts{};  // of the last minute, oldest first
  uint64_t leader_epoch = 0;                         // the highest this coordinator knows
  bool standby = false;  // it does not lead: nothing of stores, verdicts and orders is set
  bool drain = false;
  int64_t drain_deadline_ms = 0;  // 0: the node's own
  std::optional<RoleOrder> roles{};
};

struct PlaceQuery {
  std::string request_id;
  std::optional<Attempt> previous;
  Digest256 format_digest{};
  std::vector<kv::BlockId> block_ids;
  int32_t prompt_tokens = 0;
  int32_t emitted_tokens = 0;  // the longest branch
  int32_t max_tokens = 0;
  int32_t branches = 1;
  std::vector<NodeKey> avoid;
  std::optional<Digest256> handle_digest{};  // absent: not resumable
  bool attach = false;                       // the caller holds the handle only
  std::vector<NodeKey> replicas;             // stores of the attempts before
  uint32_t crashes = 0;                      // attempts that ended by a crash of their worker
  int32_t replica_stores = 0;                // 0: the cluster's default, -1: none

  // Room is queued ahead for what was accepted once.
  bool accepted_before() const { return previous.has_value() || attach; }
};

struct PrefixSource {
  NodeRef node;
  int32_t first_block = 0;
  int32_t blocks = 0;
  bool operator==(const PrefixSource&) const = default;
};

struct Placement {
  Attempt attempt;
  NodeRef decode;
  std::optional<NodeRef> prefill;
  std::vector<PrefixSource> sources;
  std::vector<NodeRef> stores;
  int32_t replica_stores = 0;  // wanted; `stores` are as many as live
  // Of an attach to a request that runs: whom to send it to. Then only attempt and leader_epoch
  // are set beside it.
  std::optional<NodeRef> running;
  uint64_t leader_epoch = 0;
  bool alone = false;  // no other request in its steps
};

struct NodeSummary {
  NodeInfo node;
  Load load;
  int64_t last_report_ms_ago = 0;
  NodeState state = NodeState::kLive;
  std::string reason;  // why it is not live, or live but kept out of placement
  int64_t indexed_blocks = 0;
};

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_CORE_TYPES_H_
