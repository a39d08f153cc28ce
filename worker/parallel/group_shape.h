// The shape of a group as people write it, and the ranks that share one kind of work in it. Who
// holds what is kvstore/block/group_split.h. Pure; any thread.
#ifndef REPRISE_WORKER_PARALLEL_GROUP_SHAPE_H_
#define REPRISE_WORKER_PARALLEL_GROUP_SHAPE_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"
#include "kvstore/block/group_split.h"

namespace reprise::parallel {

// The ranks that differ from `rank` in their tensor (context) place alone, itself included, in
// order.
std::vector<uint32_t> TensorRanksOf(const kv::GroupSplit& split, uint32_t rank);
std::vector<uint32_t> ContextRanksOf(const kv::GroupSplit& split, uint32_t rank);

// "pp2,cp1,tp4"; what is left out is 1, "" is one rank. INVALID_ARGUMENT names what is wrong;
// tensor degrees are powers of two up to 8, all ranks together at most limits::kGroupRanksMax.
StatusOr<kv::GroupSplit> ParseGroupShape(absl::string_view text);
std::string GroupShapeText(const kv::GroupSplit& split);

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_GROUP_SHAPE_H_
