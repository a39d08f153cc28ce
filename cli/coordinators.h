// The coordinators of a cluster as command-line tools ask them: one after the other until one
// answers, for orders until the one that leads does. Owned by a command; one thread.
#ifndef REPRISE_CLI_COORDINATORS_H_
#define REPRISE_CLI_COORDINATORS_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "reprise/v1/cluster.grpc.pb.h"

namespace reprise::cli {

class Coordinators {
 public:
  // "host:port,host:port".
  static StatusOr<Coordinators> Connect(const std::string& addresses);

  // The view of the leader if one of them is it, else of the first that answers; UNAVAILABLE
  // names who did not.
  StatusOr<v1::ClusterStatus> GetStatus();
  // The leader's answer; what the others say when none leads.
  StatusOr<v1::DrainResponse> Drain(const std::string& node, int64_t deadline_ms);

 private:
  std::vector<std::pair<std::string, std::unique_ptr<v1::Coordinator::Stub>>> members_;
};

}  // namespace reprise::cli

#endif  // REPRISE_CLI_COORDINATORS_H_
