#include "worker/parallel/group_shape.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/limits.h"
#include "worker/parallel/canonical_sum.h"

namespace reprise::parallel {
namespace {

constexpr int kRanksMax = static_cast<int>(limits::kGroupRanksMax);

Status Check(const GroupShape& shape) {
  if (shape.tensor > kSlices || (shape.tensor & (shape.tensor - 1)) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor degree ", shape.tensor, " is not one of 1, 2, 4, 8"));
  }
  if (shape.ranks() > kRanksMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a group of ", shape.ranks(), " ranks, the limit is ", kRanksMax));
  }
  return absl::OkStatus();
}

}  // namespace

GroupPlace PlaceOf(const GroupShape& shape, int rank) {
  return {.stage = rank / (shape.context * shape.tensor),
          .context = rank / shape.tensor % shape.context,
          .tensor = rank % shape.tensor};
}

int RankOf(const GroupShape& shape, const GroupPlace& place) {
  return (place.stage * shape.context + place.context) * shape.tensor + place.tensor;
}

std::vector<int> TensorRanksOf(const GroupShape& shape, int rank) {
  GroupPlace place = PlaceOf(shape, rank);
  std::vector<int> ranks;
  for (place.tensor = 0; place.tensor < shape.tensor; ++place.tensor) {
    ranks.push_back(RankOf(shape, place));
  }
  return ranks;
}

std::vector<int> ContextRanksOf(const GroupShape& shape, int rank) {
  GroupPlace place = PlaceOf(shape, rank);
  std::vector<int> ranks;
  for (place.context = 0; place.context < shape.context; ++place.context) {
    ranks.push_back(RankOf(shape, place));
  }
  return ranks;
}

StatusOr<GroupShape> ParseGroupShape(absl::string_view text) {
  GroupShape shape;
  for (const absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const absl::string_view kind = part.substr(0, 2);
    int* const degree = kind == "pp"   ? &shape.pipeline
                        : kind == "cp" ? &shape.context
                        : kind == "tp" ? &shape.tensor
                                       : nullptr;
    if (degree == nullptr || !absl::SimpleAtoi(part.substr(2), degree) || *degree < 1 ||
        *degree > kRanksMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("group shape \"", text, "\": \"", part,
                       "\" is not one of pp, cp, tp with a degree of 1 to ", kRanksMax));
    }
  }
  RETURN_IF_ERROR(Check(shape));
  return shape;
}

std::string ToString(const GroupShape& shape) {
  return absl::StrCat("pp", shape.pipeline, ",cp", shape.context, ",tp", shape.tensor);
}

}  // namespace reprise::parallel
