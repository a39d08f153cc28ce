#include "coordinator/leader/leader_record.h"

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/limits.h"

namespace reprise::coordinator {
std::string FormatLeader(const LeaderRecord& record) {
  return absl::StrCat(record.epoch, " ", record.name, " ", record.address);
}

StatusOr<LeaderRecord> ParseLeader(absl::string_view text) {
  constexpr size_t kBytesMax = limits::kNodeNameBytesMax + limits::kAddressBytesMax + 32;
  if (text.size() > kBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("the leader's key has ", text.size(), " bytes, the limit is ", kBytesMax));
  }
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ' ');
  LeaderRecord record;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &record.epoch) || record.epoch == 0 ||
      record.epoch > limits::kLeaderEpochMax || parts[1].empty() || parts[2].empty() ||
      absl::StrCat(record.epoch) != parts[0]) {
    return absl::InvalidArgumentError(
        "the leader's key does not hold \"epoch name address\"; another program uses it?");
  }
  record.name = std::string(parts[1]);
  record.address = std::string(parts[2]);
  return record;
}

}  // namespace reprise::coordinator
