// Real role processes of one `reprise` binary on loopback, for benchmarks and end-to-end tests that
// choose each process and its flags themselves, and kill, freeze and restart them. Owned by the
// test; one thread, the one that lives as long as the processes should.
//
// Invariants:
// 1. Every process is stopped, and the folder with logs and addresses removed, by the destructor.
// 2. A failure to start carries the end of the process's log.
// 3. A restarted process keeps its name, flags and gRPC address, and has a new incarnation.
#ifndef REPRISE_TESTS_CLUSTER_CLUSTER_H_
#define REPRISE_TESTS_CLUSTER_CLUSTER_H_

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "cli/supervisor.h"
#include "common/scrape.h"
#include "common/status.h"
#include "coordinator/leader/etcd_process.h"
#include "reprise/v1/cluster.grpc.pb.h"
#include "tests/cluster/network_lab.h"
#include "tests/cluster/scratch_dir.h"

namespace reprise::harness {

class Cluster {
 public:
  using Flags = std::vector<std::string>;
  struct Options {
    std::string program;      // path of the reprise binary
    bool failpoints = false;  // processes take the orders of Arm
    // Workers and stores have addresses of their own, plaintext beyond loopback; null: everything
    // is on loopback. Outlives the cluster.
    NetworkLab* lab = nullptr;
  };

  static StatusOr<std::unique_ptr<Cluster>> Create(const Options& options);
  static StatusOr<std::unique_ptr<Cluster>> Create(const std::string& program) {
    return Create(Options{.program = program});
  }

  // Coordinators are started first and waited for: one alone, named "coordinator", or a group that
  // agrees through an etcd of its own, "coordinator-0" and so on.
  Status AddCoordinator(const Flags& flags = {});
  Status AddCoordinators(int count, const Flags& flags = {});
  // The others start at once; WaitLive waits for all. A flag --coordinator given here comes before
  // the coordinators' own addresses (a proxy may stand between).
  Status AddWorker(const std::string& name, const Flags& flags);
  Status AddStore(const std::string& name, const Flags& flags = {});
  Status AddGateway(const std::string& name, const Flags& flags = {});
  // A rank of a worker's group, which the coordinator does not know. They are waited for before the
  // worker that drives them is added.
  Status AddRank(const std::string& name, const Flags& flags);
  Status WaitReady();
  // Until every process is ready and the coordinator counts every worker and store live.
  Status WaitLive();

  const RoleAddresses& addresses(const std::string& name) const {
    return supervisor_->addresses(name);
  }
  std::vector<std::string> names() const { return supervisor_->names(); }
  std::vector<std::string> gateways() const;  // their addresses, in the order they were added
  // Name, incarnation and doors as the coordinator knows them; of a node that was live in WaitLive.
  StatusOr<v1::NodeRef> Ref(const std::string& name) const;
  // What the leading coordinator says now.
  StatusOr<v1::ClusterStatus> QueryStatus() const;
  // The coordinator that leads, by its own word.
  StatusOr<std::string> Leader() const;
  // The leading coordinator has the node out of placement, or given up, or does not know it.
  bool GivenUp(const std::string& name) const;
  // What the workers serve, as the leading coordinator tells it.
  StatusOr<v1::ModelInfo> QueryModel() const;

  // Sum of all series of the family at the node's metrics door.
  StatusOr<double> Metric(const std::string& name, absl::string_view family) const;
  // Over all processes that have the family and whose name begins so; a dead or frozen one counts
  // as 0.
  double MetricOverAll(absl::string_view family, absl::string_view prefix = "") const;
  // User and system time of the process so far.
  StatusOr<double> CpuSeconds(const std::string& name) const;
  pid_t pid(const std::string& name) const { return supervisor_->pid(name); }
  std::string log_path(const std::string& name) const { return supervisor_->log_path(name); }
  std::string LastLogLines(const std::string& name) const {
    return supervisor_->LastLogLines(name);
  }
  const std::string& dir() const { return dir_->path(); }

  Status Signal(const std::string& name, int signal) const;
  // SIGKILL; returns when the process has ended.
  Status Kill(const std::string& name);
  // SIGSTOP and SIGCONT.
  Status Freeze(const std::string& name);
  Status Thaw(const std::string& name);
  bool frozen(const std::string& name) const { return frozen_.contains(name); }
  // Several at the same moment.
  Status KillAll(const std::vector<std::string>& names);
  // Orders the leading coordinator to have the node moved away from; returns once that has begun.
  Status Drain(const std::string& name) const;
  // How it ended; empty when it still runs after `timeout_ns`.
  std::optional<ExitStatus> WaitEnd(const std::string& name, TimeNs timeout_ns) {
    return supervisor_->WaitEnd(name, timeout_ns);
  }
  bool running(const std::string& name) { return !WaitEnd(name, 0).has_value(); }
  // Starts it anew, killing what is left of it; BeginRestart does not wait until it is ready.
  Status Restart(const std::string& name);
  Status BeginRestart(const std::string& name);
  // Thaws what is frozen, restarts what has ended, and waits as WaitLive does.
  Status Repair();

  // Gives failpoint orders ("worker.append.send=kill@1"); returns when the process has taken them.
  Status Arm(const std::string& name, const std::string& orders);
  // Of every failpoint of a process that was armed; empty when it does not answer.
  std::map<std::string, int64_t> Hits(const std::string& name) const;

 private:
  Cluster(std::unique_ptr<ScratchDir> dir, const Options& options);
  Status Start(const std::string& name, std::vector<std::string> args, const std::string& listen,
               std::vector<std::string> launcher = {});
  Status AddNode(const std::string& role, const std::string& name, const Flags& flags);
  std::string OrdersPath(const std::string& name) const;
  bool AllLive(const v1::ClusterStatus& status) const;

  const Options options_;
  const std::unique_ptr<ScratchDir> dir_;
  std::unique_ptr<EtcdProcess> etcd_;
  std::unique_ptr<cli::Supervisor> supervisor_;  // after dir_: its processes write there
  std::string coordinator_list_;                 // for --coordinator
  std::map<std::string, std::unique_ptr<v1::Coordinator::Stub>> coordinators_;  // by name
  std::vector<std::string> nodes_;  // workers and stores
  std::vector<std::string> gateways_;
  std::set<std::string> frozen_;
};

// User and system time of any process of this machine.
StatusOr<double> ProcessCpuSeconds(pid_t pid);
// The same by thread name, to the nanosecond; threads of one name together. Those that have ended
// are not in it.
StatusOr<std::map<std::string, double>> ThreadCpuSeconds(pid_t pid);
// How often its threads have gone to sleep of themselves; those that have ended are not in it.
StatusOr<int64_t> ProcessSleeps(pid_t pid);

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_CLUSTER_CLUSTER_H_
