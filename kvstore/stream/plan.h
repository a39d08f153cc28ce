// Who sends what to whom when KV moves between two groups of ranks that split the model
// differently: any pipeline, tensor and context split to any other. Pure; any thread.
//
// Invariants of a plan:
// 1. Every (block, layer, head) a receiver holds is received by it exactly once, from who holds it.
// 2. Every (block, layer, head) leaves the sending group exactly once. Where several receivers need
//    the same (more tensor ranks than heads, as with latents always), the first of them receives it
//    and hands it on to the others. Where several senders hold the same, receivers are spread over
//    them.
#ifndef REPRISE_KVSTORE_STREAM_PLAN_H_
#define REPRISE_KVSTORE_STREAM_PLAN_H_

#include <cstdint>
#include <vector>

#include "common/status.h"
#include "kvstore/block/group_split.h"

namespace reprise::kv {

struct StreamTransfer {
  uint32_t from = 0;  // rank of the sending group; of the receiving one when handed on
  uint32_t to = 0;    // rank of the receiving group
  bool hand_on = false;
  KvPart part;
  // Of those blocks that the receiver owns: the ones of this context rank of the sending group.
  // What is handed on is all of them.
  uint32_t context = 0;
};

// INVALID_ARGUMENT when a split does not fit the format.
StatusOr<std::vector<StreamTransfer>> PlanStream(const KvFormat& format, const GroupSplit& from,
                                                 const GroupSplit& to);

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_PLAN_H_
