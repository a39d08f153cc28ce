// Where a request runs: decode worker, prefill worker, prefix sources and replica stores, chosen
// from a view of the cluster, or a named refusal. A pure function; any thread.
//
// Costs are counted in tokens of prefill, so that unlike things can be added:
//   moving the KV of a token costs 1 / move_discount; a running sequence running_tokens; a waiting
//   request waiting_tokens; a token of growth the node has no pages for, one token.
// Prefill that keeps several context ranks of a group busy costs its tokens divided by their number
// (docs/coordinator.md, Long prompts).
// The cheapest wins, then who takes fewer ranks from long prompts, then the lower name. Nothing
// depends on the order of anything but names.
#ifndef REPRISE_COORDINATOR_POLICY_PLACEMENT_H_
#define REPRISE_COORDINATOR_POLICY_PLACEMENT_H_

#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "common/limits.h"
#include "coordinator/core/refusal.h"
#include "coordinator/core/types.h"
#include "kvstore/block/group_split.h"

namespace reprise::coordinator {

struct PlacementOptions {
  // A shorter uncached suffix of the prompt is computed by the decode worker itself.
  int32_t remote_prefill_min_tokens = 256;
  int32_t replica_stores = 1;
  // A worker without pages for prompt + one block still takes first attempts into its queue up to
  // this many waiting requests; one with pages, up to waiting_max.
  int32_t waiting_without_room_max = 64;
  int32_t waiting_max = limits::kWorkerWaitingMax;
  int64_t retry_no_room_ms = 500;
  int64_t retry_no_workers_ms = 1000;

  int64_t move_discount = 8;
  int64_t running_tokens = 32;
  int64_t waiting_tokens = 256;
  // A worker that also decodes counts a prefill twice, for the steps it delays, and this on top, so
  // that prefill goes to dedicated workers until their queue is as long as that.
  int64_t mixed_prefill_tokens = 512;
};

// Context ranks of `group` that a suffix of `tokens` prompt tokens keeps busy: a stripe belongs to
// one rank, so as many as it has stripes, begun ones included.
int64_t BusyContextRanks(const kv::GroupSplit& group, int64_t tokens);

// What placements since the node's last word will take from it.
struct Reserved {
  int32_t requests = 0;
  int64_t blocks = 0;
  int64_t prefill_tokens = 0;
  Reserved& operator+=(const Reserved& other);
};

struct NodeView {
  const NodeInfo* info = nullptr;
  const Load* load = nullptr;
  Slot slot = 0;
  NodeState state = NodeState::kLive;
  Reserved reserved;
  RoleOrder allowed{};  // of what it says it can do
};

struct ClusterView {
  const ModelInfo* model = nullptr;            // what the workers serve; null while there is none
  std::vector<NodeView> nodes;                 // workers and stores of that format; ascending names
  std::vector<std::span<const Slot>> holders;  // of the query's leading blocks
};

struct Choice {
  Placement placement;  // without its attempt
  Slot decode = 0;
  Reserved at_decode;
  std::optional<Slot> prefill;
  Reserved at_prefill;
};

std::variant<Choice, Refusal> ChoosePlacement(const PlacementOptions& options,
                                              const ClusterView& view, const PlaceQuery& query);

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_POLICY_PLACEMENT_H_
