// How a group of ranks divides a model: pipeline stages of layers, context ranks of positions,
// tensor ranks of heads and columns. Values; any thread.
//
// Rank r = (stage * context + context rank) * tensor + tensor rank: tensor ranks, which talk most,
// are neighbours.
#ifndef REPRISE_WORKER_PARALLEL_GROUP_SHAPE_H_
#define REPRISE_WORKER_PARALLEL_GROUP_SHAPE_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise::parallel {

struct GroupShape {
  int pipeline = 1;
  int context = 1;
  int tensor = 1;  // 1, 2, 4 or 8
  int ranks() const { return pipeline * context * tensor; }
  bool operator==(const GroupShape&) const = default;
};

struct GroupPlace {
  int stage = 0;
  int context = 0;
  int tensor = 0;
  bool operator==(const GroupPlace&) const = default;
};

GroupPlace PlaceOf(const GroupShape& shape, int rank);
int RankOf(const GroupShape& shape, const GroupPlace& place);
// The ranks that differ from `rank` in their tensor (context) place alone, itself included, in
// order.
std::vector<int> TensorRanksOf(const GroupShape& shape, int rank);
std::vector<int> ContextRanksOf(const GroupShape& shape, int rank);

// "pp2,cp1,tp4"; what is left out is 1, "" is one rank. INVALID_ARGUMENT names what is wrong;
// tensor degrees are powers of two up to 8, all ranks together at most limits::kGroupRanksMax.
StatusOr<GroupShape> ParseGroupShape(absl::string_view text);
std::string ToString(const GroupShape& shape);

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_GROUP_SHAPE_H_
