// Who sends what to whom when KV moves between two groups of workers that split the model
// differently: any pipeline split (layers) times any tensor split (heads) to any other. Pure; any
// thread.
//
// Invariants of a plan:
// 1. Every (layer, head) of every receiver is received exactly once.
// 2. A sender sends only what it holds. Where several hold the same (heads replicated because there
//    are more ranks than heads), receivers are spread over them.
#ifndef REPRISE_KVSTORE_STREAM_PLAN_H_
#define REPRISE_KVSTORE_STREAM_PLAN_H_

#include <cstdint>
#include <vector>

#include "common/status.h"

namespace reprise::kv {

struct Range {
  uint32_t begin = 0;
  uint32_t end = 0;  // one past the last
  bool operator==(const Range&) const = default;
};

// Rank r holds layers of pipeline stage r / tensor and heads of tensor rank r % tensor.
struct GroupSplit {
  uint32_t pipeline = 1;  // at most the layers; earlier stages take the remainder
  uint32_t tensor = 1;    // divides the heads, or is a multiple of them (heads are replicated)
};

struct StreamShape {
  uint32_t layers = 0;
  uint32_t heads = 0;  // KV heads; 1 for latents
};

struct StreamTransfer {
  uint32_t from = 0;  // rank of the sending group
  uint32_t to = 0;    // rank of the receiving group
  Range layers;
  Range heads;
};

// INVALID_ARGUMENT when a split does not fit the shape.
StatusOr<std::vector<StreamTransfer>> PlanStream(const StreamShape& shape, const GroupSplit& from,
                                                 const GroupSplit& to);

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_PLAN_H_
