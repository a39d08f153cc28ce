// A cluster as its user starts it: `reprise up` in a folder of its own, for benchmarks and
// end-to-end tests. Owned by the test; one thread.
#ifndef REPRISE_TESTS_CLUSTER_UP_H_
#define REPRISE_TESTS_CLUSTER_UP_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/role.h"
#include "common/status.h"
#include "common/subprocess.h"
#include "reprise/v1/cluster.pb.h"
#include "tests/cluster/cluster.h"
#include "tests/cluster/scratch_dir.h"

namespace reprise::harness {

class Up {
 public:
  // The processes of a cluster that no flag changes.
  static std::vector<std::string> DefaultNames();

  // Returns when every process is ready and every worker and store counts as live. `names` are the
  // processes that `flags` make.
  static StatusOr<std::unique_ptr<Up>> Start(
      const std::string& program, const std::string& model,
      const std::vector<std::string>& flags = {},
      const std::vector<std::string>& names = DefaultNames());
  ~Up();  // stops it

  const std::string& state_dir() const { return state_dir_; }
  // Of all of them, with commas between.
  std::string gateway() const { return Doors("gateway"); }
  // By name, as they were when the cluster became ready.
  const std::map<std::string, RoleAddresses>& addresses() const { return addresses_; }
  // What the coordinator, of several the leader, says now.
  StatusOr<v1::ClusterStatus> QueryStatus() const;
  // Until `nodes` workers and stores are live.
  Status WaitLive(int nodes) const;

  pid_t pid() const { return process_->pid(); }
  // Of the running child with that name; NOT_FOUND between a death and the restart.
  StatusOr<pid_t> ChildPid(const std::string& name) const;
  std::vector<pid_t> ChildPids() const;
  // SIGTERM; empty when it has not ended in time.
  std::optional<ExitStatus> Stop(TimeNs timeout_ns);
  // What it and its processes printed.
  std::string Output() const;

 private:
  Up() = default;
  Status WaitReady(const std::vector<std::string>& names);
  std::string Doors(const std::string& role) const;

  std::unique_ptr<ScratchDir> dir_;
  std::string state_dir_;
  std::unique_ptr<Subprocess> process_;
  std::map<std::string, RoleAddresses> addresses_;
};

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_CLUSTER_UP_H_
