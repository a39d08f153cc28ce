#include "worker/group/group_links.h"

#include <array>

#include "common/limits.h"

namespace reprise::worker {
namespace {

// Groups of one epoch are told apart by kind and first rank.
enum class Kind : uint64_t { kWorld, kTensor, kPipeline, kContext };

uint64_t GroupId(uint64_t group, Kind kind, uint32_t first_rank) {
  return group + static_cast<uint64_t>(kind) * limits::kGroupRanksMax + first_rank;
}

}  // namespace

void GroupLinks::Abort(const Status& reason) const {
  for (const auto* link : {&world, &tensor, &pipeline, &context}) {
    if (*link != nullptr) (*link)->Abort(reason);
  }
}

StatusOr<GroupLinks> JoinLinks(parallel::GroupHost& host, const EpochSpec& spec, TimeNs deadline_ns,
                               const std::stop_token& stop, const LinkMaker& maker) {
  GroupLinks links;
  links.split = spec.split;
  links.rank = spec.rank;
  links.place = kv::PlaceOf(spec.split, spec.rank);
  const auto join =
      [&](Kind kind,
          const std::vector<uint32_t>& ranks) -> StatusOr<std::unique_ptr<parallel::Communicator>> {
    parallel::GroupSpec group{.group = GroupId(spec.group, kind, ranks.front()),
                              .epoch = spec.epoch};
    for (size_t i = 0; i < ranks.size(); ++i) {
      if (ranks[i] == spec.rank) group.rank = static_cast<int>(i);
      group.addresses.push_back(spec.addresses[ranks[i]]);
    }
    auto joined = maker && kind != Kind::kWorld ? maker(host, group, deadline_ns, stop)
                                                : host.Join(group, deadline_ns, stop);
    if (!joined.ok()) links.Abort(joined.status());
    return joined;
  };
  std::vector<uint32_t> all(spec.split.ranks());
  for (uint32_t rank = 0; rank < all.size(); ++rank) all[rank] = rank;
  ASSIGN_OR_RETURN(links.world, join(Kind::kWorld, all));
  // Those that differ from this rank in one coordinate of its place.
  const auto along = [&](uint32_t kv::RankPlace::*coordinate, uint32_t size) {
    std::vector<uint32_t> ranks;
    kv::RankPlace place = links.place;
    for (place.*coordinate = 0; place.*coordinate < size; ++(place.*coordinate)) {
      ranks.push_back(kv::RankAt(spec.split, place));
    }
    return ranks;
  };
  if (spec.split.tensor > 1) {
    ASSIGN_OR_RETURN(links.tensor,
                     join(Kind::kTensor, along(&kv::RankPlace::tensor, spec.split.tensor)));
  }
  if (spec.split.pipeline > 1) {
    ASSIGN_OR_RETURN(links.pipeline,
                     join(Kind::kPipeline, along(&kv::RankPlace::stage, spec.split.pipeline)));
  }
  if (spec.split.context > 1) {
    ASSIGN_OR_RETURN(links.context,
                     join(Kind::kContext, along(&kv::RankPlace::context, spec.split.context)));
  }
  return links;
}

}  // namespace reprise::worker
