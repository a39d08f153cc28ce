#include "worker/parallel/group_shape.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/limits.h"
#include "worker/parallel/canonical_sum.h"

namespace reprise::parallel {
namespace {

Status Check(const kv::GroupSplit& split) {
  if (split.tensor > kSlices || (split.tensor & (split.tensor - 1)) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor degree ", split.tensor, " is not one of 1, 2, 4, 8"));
  }
  if (split.ranks() > limits::kGroupRanksMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a group of ", split.ranks(), " ranks, the limit is ", limits::kGroupRanksMax));
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<kv::GroupSplit> ParseGroupShape(absl::string_view text) {
  kv::GroupSplit split;
  for (const absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const absl::string_view kind = part.substr(0, 2);
    uint32_t* const degree = kind == "pp"   ? &split.pipeline
                             : kind == "cp" ? &split.context
                             : kind == "tp" ? &split.tensor
                                            : nullptr;
    if (degree == nullptr || !absl::SimpleAtoi(part.substr(2), degree) || *degree < 1 ||
        *degree > limits::kGroupRanksMax) {
      return absl::InvalidArgumentError(absl::StrCat(
          "group shape \"", text, "\": \"", part,
          "\" is not one of pp, cp, tp with a degree of 1 to ", limits::kGroupRanksMax));
    }
  }
  RETURN_IF_ERROR(Check(split));
  return split;
}

std::string GroupShapeText(const kv::GroupSplit& split) {
  return absl::StrCat("pp", split.pipeline, ",cp", split.context, ",tp", split.tensor);
}

}  // namespace reprise::parallel
