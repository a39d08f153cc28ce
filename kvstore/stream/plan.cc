#include "kvstore/stream/plan.h"

namespace reprise::kv {
namespace {

// What rank `to` receives from the sending group.
void AddTransfers(const KvFormat& format, const GroupSplit& from, const KvPart& wanted,
                  const StreamTransfer& to, std::vector<StreamTransfer>* plan) {
  const uint32_t replicas = HeadReplicas(format, from);
  for (uint32_t rank = 0; rank < from.ranks(); ++rank) {
    const RankPlace place = PlaceOf(from, rank);
    if (place.tensor % replicas != to.from % replicas) continue;  // another holds the same
    const KvPart held = PartOfRank(format, from, rank);
    StreamTransfer transfer = to;
    transfer.from = rank;
    transfer.context = place.context;
    transfer.part = {.layers = Common(wanted.layers, held.layers),
                     .heads = Common(wanted.heads, held.heads)};
    if (transfer.part.layers.size() > 0 && transfer.part.heads.size() > 0) {
      plan->push_back(transfer);
    }
  }
}

}  // namespace

StatusOr<std::vector<StreamTransfer>> PlanStream(const KvFormat& format, const GroupSplit& from,
                                                 const GroupSplit& to) {
  RETURN_IF_ERROR(CheckSplit(format, from));
  RETURN_IF_ERROR(CheckSplit(format, to));
  const uint32_t siblings = HeadReplicas(format, to);  // that hold the same, neighbours
  std::vector<StreamTransfer> plan;
  for (uint32_t rank = 0; rank < to.ranks(); ++rank) {
    const KvPart wanted = PartOfRank(format, to, rank);
    const uint32_t first = rank - PlaceOf(to, rank).tensor % siblings;
    if (rank != first) {
      plan.push_back({.from = first, .to = rank, .hand_on = true, .part = wanted});
    } else {
      // `from`, for a moment: which of the senders that hold the same.
      AddTransfers(format, from, wanted, {.from = rank / siblings, .to = rank, .part = {}}, &plan);
    }
  }
  return plan;
}

}  // namespace reprise::kv
