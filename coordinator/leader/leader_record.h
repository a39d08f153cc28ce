// The value of a group's key in etcd: "epoch name address", in text so that people can read it.
// Pure functions; any thread.
#ifndef REPRISE_COORDINATOR_LEADER_LEADER_RECORD_H_
#define REPRISE_COORDINATOR_LEADER_LEADER_RECORD_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise::coordinator {

struct LeaderRecord {
  uint64_t epoch = 0;
  std::string name;     // without spaces
  std::string address;  // host:port
  bool operator==(const LeaderRecord&) const = default;
};

std::string FormatLeader(const LeaderRecord& record);
// INVALID_ARGUMENT for anything FormatLeader does not write: the key is somebody else's.
StatusOr<LeaderRecord> ParseLeader(absl::string_view text);

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_LEADER_LEADER_RECORD_H_
