// Real role processes of one `reprise` binary on loopback, for benchmarks and end-to-end tests that
// choose each process and its flags themselves. Owned by the test; one thread.
//
// Invariants:
// 1. Every process is stopped, and the folder with logs and addresses removed, by the destructor.
// 2. A failure to start carries the end of the process's log.
#ifndef REPRISE_TESTS_CLUSTER_CLUSTER_H_
#define REPRISE_TESTS_CLUSTER_CLUSTER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "cli/supervisor.h"
#include "common/scrape.h"
#include "common/status.h"
#include "reprise/v1/cluster.grpc.pb.h"

namespace reprise::harness {

// A new folder below the system's folder for temporary files, removed with everything in it.
class ScratchDir {
 public:
  static StatusOr<std::unique_ptr<ScratchDir>> Create();
  ~ScratchDir();
  const std::string& path() const { return path_; }

 private:
  explicit ScratchDir(std::string path) : path_(std::move(path)) {}
  const std::string path_;
};

class Cluster {
 public:
  using Flags = std::vector<std::string>;

  // `program` is the path of the reprise binary.
  static StatusOr<std::unique_ptr<Cluster>> Create(const std::string& program);

  // The coordinator is started first and waited for.
  Status AddCoordinator(const Flags& flags = {});
  // The others start at once; WaitLive waits for all.
  Status AddWorker(const std::string& name, const Flags& flags);
  Status AddStore(const std::string& name, const Flags& flags = {});
  Status AddGateway(const std::string& name, const Flags& flags = {});
  // Until every process is ready and the coordinator counts every worker and store live.
  Status WaitLive();

  const RoleAddresses& addresses(const std::string& name) const {
    return supervisor_->addresses(name);
  }
  std::vector<std::string> names() const { return supervisor_->names(); }
  // Name, incarnation and doors as the coordinator knows them; of a node that was live in WaitLive.
  StatusOr<v1::NodeRef> Ref(const std::string& name) const;
  // What the coordinator says now.
  StatusOr<v1::ClusterStatus> QueryStatus() const;

  // Sum of all series of the family at the node's metrics door.
  StatusOr<double> Metric(const std::string& name, absl::string_view family) const;
  // User and system time of the process so far.
  StatusOr<double> CpuSeconds(const std::string& name) const;
  pid_t pid(const std::string& name) const { return supervisor_->pid(name); }
  Status Signal(const std::string& name, int signal) const;
  std::string log_path(const std::string& name) const { return supervisor_->log_path(name); }
  const std::string& dir() const { return dir_->path(); }

 private:
  Cluster(std::unique_ptr<ScratchDir> dir, const std::string& program);
  Status AddNode(const std::string& role, const std::string& name, const Flags& flags);
  bool AllLive(const v1::ClusterStatus& status) const;

  const std::unique_ptr<ScratchDir> dir_;
  std::unique_ptr<cli::Supervisor> supervisor_;  // after dir_: its processes write there
  std::unique_ptr<v1::Coordinator::Stub> coordinator_;
  std::vector<std::string> nodes_;  // workers and stores
};

// User and system time of any process of this machine.
StatusOr<double> ProcessCpuSeconds(pid_t pid);

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_CLUSTER_CLUSTER_H_
