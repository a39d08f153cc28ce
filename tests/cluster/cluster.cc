#include "tests/cluster/cluster.h"

#include <signal.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <utility>

#include "common/grpc_status.h"
#include "common/rpc_server.h"
#include "common/scrape.h"

namespace reprise::harness {
namespace {

constexpr TimeNs kLiveTimeoutNs = 60 * kSecond;
constexpr TimeNs kPollNs = 20 * kMillisecond;

}  // namespace

StatusOr<std::unique_ptr<ScratchDir>> ScratchDir::Create() {
  std::error_code error;
  std::string path = (std::filesystem::temp_directory_path(error) / "reprise-XXXXXX").string();
  if (error || mkdtemp(path.data()) == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot make a folder like ", path));
  }
  return std::unique_ptr<ScratchDir>(new ScratchDir(std::move(path)));
}

ScratchDir::~ScratchDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

StatusOr<std::unique_ptr<Cluster>> Cluster::Create(const std::string& program) {
  ASSIGN_OR_RETURN(std::unique_ptr<ScratchDir> dir, ScratchDir::Create());
  return std::unique_ptr<Cluster>(new Cluster(std::move(dir), program));
}

Cluster::Cluster(std::unique_ptr<ScratchDir> dir, const std::string& program)
    : dir_(std::move(dir)),
      supervisor_(std::make_unique<cli::Supervisor>(cli::Supervisor::Options{
          .program = program, .state_dir = dir_->path(), .restart = false})) {}

Status Cluster::AddCoordinator(const Flags& flags) {
  cli::ChildSpec spec{"coordinator", {"coordinator"}};
  spec.args.insert(spec.args.end(), flags.begin(), flags.end());
  RETURN_IF_ERROR(supervisor_->Start(std::move(spec)));
  StopSignal never;
  RETURN_IF_ERROR(supervisor_->WaitReady(&never));
  coordinator_ = v1::Coordinator::NewStub(ClusterChannel(addresses("coordinator").grpc));
  return absl::OkStatus();
}

Status Cluster::AddNode(const std::string& role, const std::string& name, const Flags& flags) {
  cli::ChildSpec spec{name,
                      {role, "--name=" + name, "--coordinator=" + addresses("coordinator").grpc}};
  spec.args.insert(spec.args.end(), flags.begin(), flags.end());
  return supervisor_->Start(std::move(spec));
}

Status Cluster::AddWorker(const std::string& name, const Flags& flags) {
  nodes_.push_back(name);
  return AddNode("worker", name, flags);
}

Status Cluster::AddStore(const std::string& name, const Flags& flags) {
  nodes_.push_back(name);
  return AddNode("kvstore", name, flags);
}

Status Cluster::AddGateway(const std::string& name, const Flags& flags) {
  return AddNode("gateway", name, flags);
}

bool Cluster::AllLive(const v1::ClusterStatus& status) const {
  return std::all_of(nodes_.begin(), nodes_.end(), [&](const std::string& name) {
    return std::any_of(status.nodes().begin(), status.nodes().end(),
                       [&](const v1::NodeStatus& node) {
                         return node.node().ref().name() == name && node.state() == "live";
                       });
  });
}

Status Cluster::WaitLive() {
  StopSignal never;
  RETURN_IF_ERROR(supervisor_->WaitReady(&never));
  const TimeNs until = RealClock().NowNs() + kLiveTimeoutNs;
  while (true) {
    const auto status = QueryStatus();
    if (status.ok() && AllLive(*status)) return absl::OkStatus();
    if (RealClock().NowNs() > until) {
      return absl::DeadlineExceededError(absl::StrCat(
          "not every node was live after ", SecondsFromNs(kLiveTimeoutNs), " s: ",
          status.ok() ? status->ShortDebugString() : std::string(status.status().message())));
    }
    never.WaitFor(kPollNs);
  }
}

StatusOr<v1::ClusterStatus> Cluster::QueryStatus() const {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  v1::ClusterStatus status;
  const grpc::Status result = coordinator_->GetStatus(&context, v1::GetStatusRequest(), &status);
  if (!result.ok()) return FromGrpc(result);
  return status;
}

StatusOr<v1::NodeRef> Cluster::Ref(const std::string& name) const {
  ASSIGN_OR_RETURN(const v1::ClusterStatus status, QueryStatus());
  for (const v1::NodeStatus& node : status.nodes()) {
    if (node.node().ref().name() == name) return node.node().ref();
  }
  return absl::NotFoundError(absl::StrCat("the coordinator knows no node ", name));
}

StatusOr<double> Cluster::Metric(const std::string& name, absl::string_view family) const {
  ASSIGN_OR_RETURN(const std::string text, ScrapeMetrics(addresses(name).metrics));
  auto value = SumOfFamily(text, family);
  if (!value.ok()) {
    return Status(value.status().code(), absl::StrCat(name, ": ", value.status().message()));
  }
  return value;
}

StatusOr<double> Cluster::CpuSeconds(const std::string& name) const {
  return ProcessCpuSeconds(pid(name));
}

Status Cluster::Signal(const std::string& name, int signal) const {
  // The child is reaped by the supervisor only, so the pid is still its own.
  if (::kill(pid(name), signal) == 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("cannot signal ", name));
}

}  // namespace reprise::harness
