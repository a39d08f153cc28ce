// The shape of a group as people write it. Who holds what is kvstore/block/group_split.h. Pure; any
// thread.
#ifndef REPRISE_WORKER_PARALLEL_GROUP_SHAPE_H_
#define REPRISE_WORKER_PARALLEL_GROUP_SHAPE_H_

#include <string>

#include "absl/strings/string_view.h"
#include "common/status.h"
#include "kvstore/block/group_split.h"

namespace reprise::parallel {

// "pp2,cp1,tp4"; what is left out is 1, "" is one rank. INVALID_ARGUMENT names what is wrong;
// tensor degrees are powers of two up to 8, all ranks together at most limits::kGroupRanksMax.
StatusOr<kv::GroupSplit> ParseGroupShape(absl::string_view text);
std::string GroupShapeText(const kv::GroupSplit& split);

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_GROUP_SHAPE_H_
