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
};

struct NodeInfo {
  NodeRef ref;
  Role role = Role::kGateway;
  std::string metrics_address;
  std::string failure_domain;  // empty: unknown
  bool can_prefill = false;
  bool can_decode = false;
  ModelInfo model;  // workers and stores
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
};

struct RequestReport {
  std::string request_id;
  Attempt attempt;
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
};

struct ReportAnswer {
  uint64_t coordinator_incarnation = 0;
  uint64_t next_event = 1;
  bool want_snapshot = false;
  int32_t report_interval_ms = 0;
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
