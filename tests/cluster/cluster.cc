#include "tests/cluster/cluster.h"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/free_ports.h"
#include "common/grpc_status.h"
#include "common/rpc_server.h"

namespace reprise::harness {
namespace {

constexpr TimeNs kLiveTimeoutNs = 60 * kSecond;
constexpr TimeNs kPollNs = 20 * kMillisecond;
constexpr TimeNs kArmTimeoutNs = 10 * kSecond;
constexpr TimeNs kStatusTimeoutNs = 2 * kSecond;

StatusOr<v1::ClusterStatus> StatusOf(v1::Coordinator::Stub& coordinator) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::nanoseconds(kStatusTimeoutNs));
  v1::ClusterStatus status;
  const grpc::Status result = coordinator.GetStatus(&context, v1::GetStatusRequest(), &status);
  if (!result.ok()) return FromGrpc(result);
  return status;
}

}  // namespace

StatusOr<std::unique_ptr<Cluster>> Cluster::Create(const Options& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<ScratchDir> dir, ScratchDir::Create());
  return std::unique_ptr<Cluster>(new Cluster(std::move(dir), options));
}

Cluster::Cluster(std::unique_ptr<ScratchDir> dir, const Options& options)
    : options_(options),
      dir_(std::move(dir)),
      supervisor_(std::make_unique<cli::Supervisor>(cli::Supervisor::Options{
          .program = options.program, .state_dir = dir_->path(), .restart = false})) {}

std::string Cluster::OrdersPath(const std::string& name) const {
  return absl::StrCat(dir_->path(), "/", name, ".failpoints");
}

Status Cluster::Start(const std::string& name, std::vector<std::string> args,
                      const std::string& listen, std::vector<std::string> launcher) {
  if (options_.lab != nullptr) args.push_back("--test-only-plaintext-beyond-loopback");
  cli::ChildSpec spec{.name = name,
                      .args = std::move(args),
                      .listen = listen,
                      .extra_env = {},
                      .launcher = std::move(launcher)};
  if (options_.failpoints) spec.extra_env = {{"REPRISE_FAILPOINTS_FILE", OrdersPath(name)}};
  return supervisor_->Start(std::move(spec));
}

Status Cluster::AddCoordinator(const Flags& flags) {
  std::vector<std::string> args = {"coordinator"};
  args.insert(args.end(), flags.begin(), flags.end());
  const std::string host = options_.lab == nullptr ? "127.0.0.1" : options_.lab->host();
  RETURN_IF_ERROR(Start("coordinator", std::move(args), host + ":0"));
  StopSignal never;
  RETURN_IF_ERROR(supervisor_->WaitReady(&never));
  coordinator_list_ = addresses("coordinator").grpc;
  coordinators_["coordinator"] = v1::Coordinator::NewStub(ClusterChannel(coordinator_list_));
  return absl::OkStatus();
}

Status Cluster::AddCoordinators(int count, const Flags& flags) {
  ASSIGN_OR_RETURN(etcd_, EtcdProcess::Start(dir_->path()));
  ASSIGN_OR_RETURN(const std::vector<uint16_t> ports, FreePorts(count));
  std::vector<std::string> at;
  for (const uint16_t port : ports) at.push_back(absl::StrCat("127.0.0.1:", port));
  coordinator_list_ = absl::StrJoin(at, ",");
  for (int i = 0; i < count; ++i) {
    const std::string name = absl::StrCat("coordinator-", i);
    std::vector<std::string> peers = at;
    peers.erase(peers.begin() + i);
    std::vector<std::string> args = {"coordinator", "--name=" + name, "--etcd=" + etcd_->address(),
                                     "--peers=" + absl::StrJoin(peers, ",")};
    args.insert(args.end(), flags.begin(), flags.end());
    RETURN_IF_ERROR(Start(name, std::move(args), at[static_cast<size_t>(i)]));
    coordinators_[name] = v1::Coordinator::NewStub(ClusterChannel(at[static_cast<size_t>(i)]));
  }
  StopSignal never;
  return supervisor_->WaitReady(&never);
}

Status Cluster::AddNode(const std::string& role, const std::string& name, const Flags& flags) {
  std::vector<std::string> args = {role, "--name=" + name};
  const bool proxied = std::any_of(flags.begin(), flags.end(), [](const std::string& flag) {
    return absl::StartsWith(flag, "--coordinator=");
  });
  if (!proxied) args.push_back("--coordinator=" + coordinator_list_);
  args.insert(args.end(), flags.begin(), flags.end());
  if (options_.lab == nullptr || role == "gateway") {
    return Start(name, std::move(args), "127.0.0.1:0");
  }
  ASSIGN_OR_RETURN(NetworkLab::Node node, options_.lab->AddNode(name));
  args.insert(args.end(),
              {"--kv-listen=" + node.kv_host + ":0", "--metrics-listen=" + node.orders_host + ":0",
               absl::StrCat("--devices=", NetworkLab::kv_device()), "--no-shared-memory"});
  return Start(name, std::move(args), node.orders_host + ":0", std::move(node.launcher));
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
  gateways_.push_back(name);
  return AddNode("gateway", name, flags);
}

Status Cluster::AddRank(const std::string& name, const Flags& flags) {
  std::vector<std::string> args = {"rank", "--name=" + name};
  args.insert(args.end(), flags.begin(), flags.end());
  return Start(name, std::move(args), "127.0.0.1:0");
}

Status Cluster::WaitReady() {
  StopSignal never;
  return supervisor_->WaitReady(&never);
}

std::vector<std::string> Cluster::gateways() const {
  std::vector<std::string> at;
  for (const std::string& name : gateways_) at.push_back(addresses(name).grpc);
  return at;
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
  Status last = absl::NotFoundError("there is no coordinator");
  for (const auto& [name, stub] : coordinators_) {
    if (frozen(name)) continue;
    auto status = StatusOf(*stub);
    if (status.ok() && (coordinators_.size() == 1 || status->leader() == name)) return status;
    last = status.ok() ? absl::UnavailableError(absl::StrCat(name, " does not lead"))
                       : status.status();
  }
  return last;
}

StatusOr<std::string> Cluster::Leader() const {
  if (coordinators_.size() == 1) return coordinators_.begin()->first;
  ASSIGN_OR_RETURN(const v1::ClusterStatus status, QueryStatus());
  return status.leader();
}

bool Cluster::GivenUp(const std::string& name) const {
  const auto status = QueryStatus();
  if (!status.ok()) return false;
  for (const v1::NodeStatus& node : status->nodes()) {
    if (node.node().ref().name() != name) continue;
    return node.state() != "live" || !node.reason().empty();
  }
  return true;
}

StatusOr<v1::ModelInfo> Cluster::QueryModel() const {
  ASSIGN_OR_RETURN(const std::string leader, Leader());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::nanoseconds(kStatusTimeoutNs));
  v1::ModelInfo model;
  RETURN_IF_ERROR(
      FromGrpc(coordinators_.at(leader)->GetModel(&context, v1::GetModelRequest(), &model)));
  return model;
}

StatusOr<v1::NodeRef> Cluster::Ref(const std::string& name) const {
  ASSIGN_OR_RETURN(const v1::ClusterStatus status, QueryStatus());
  for (const v1::NodeStatus& node : status.nodes()) {
    if (node.node().ref().name() == name) return node.node().ref();
  }
  return absl::NotFoundError(absl::StrCat("the coordinator knows no node ", name));
}

StatusOr<double> Cluster::Metric(const std::string& name, absl::string_view family) const {
  if (frozen(name)) return absl::UnavailableError(absl::StrCat(name, " is frozen"));
  ASSIGN_OR_RETURN(const std::string text, ScrapeMetrics(addresses(name).metrics));
  auto value = SumOfFamily(text, family);
  if (!value.ok()) {
    return Status(value.status().code(), absl::StrCat(name, ": ", value.status().message()));
  }
  return value;
}

double Cluster::MetricOverAll(absl::string_view family, absl::string_view prefix) const {
  double sum = 0;
  for (const std::string& name : names()) {
    if (absl::StartsWith(name, prefix)) sum += Metric(name, family).value_or(0);
  }
  return sum;
}

StatusOr<double> Cluster::CpuSeconds(const std::string& name) const {
  return ProcessCpuSeconds(pid(name));
}

Status Cluster::Signal(const std::string& name, int signal) const {
  return supervisor_->Signal(name, signal);
}

Status Cluster::Kill(const std::string& name) {
  frozen_.erase(name);
  if (!running(name)) return absl::NotFoundError(absl::StrCat(name, " has ended already"));
  RETURN_IF_ERROR(Signal(name, SIGKILL));
  if (supervisor_->WaitEnd(name, kLiveTimeoutNs).has_value()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(name, " survived SIGKILL"));
}

Status Cluster::KillAll(const std::vector<std::string>& names) {
  for (const std::string& name : names) RETURN_IF_ERROR(Signal(name, SIGKILL));
  for (const std::string& name : names) {
    frozen_.erase(name);
    if (!supervisor_->WaitEnd(name, kLiveTimeoutNs).has_value()) {
      return absl::InternalError(absl::StrCat(name, " survived SIGKILL"));
    }
  }
  return absl::OkStatus();
}

Status Cluster::Drain(const std::string& name) const {
  ASSIGN_OR_RETURN(const std::string leader, Leader());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::nanoseconds(kStatusTimeoutNs));
  v1::DrainRequest request;
  request.set_name(name);
  v1::DrainResponse response;
  return FromGrpc(coordinators_.at(leader)->Drain(&context, request, &response));
}

Status Cluster::Freeze(const std::string& name) {
  RETURN_IF_ERROR(Signal(name, SIGSTOP));
  frozen_.insert(name);
  return absl::OkStatus();
}

Status Cluster::Thaw(const std::string& name) {
  frozen_.erase(name);
  return Signal(name, SIGCONT);
}

Status Cluster::BeginRestart(const std::string& name) {
  frozen_.erase(name);
  std::error_code ignored;
  std::filesystem::remove(OrdersPath(name), ignored);
  return supervisor_->Restart(name);
}

Status Cluster::Restart(const std::string& name) {
  RETURN_IF_ERROR(BeginRestart(name));
  StopSignal never;
  return supervisor_->WaitReady(&never);
}

Status Cluster::Repair() {
  for (const std::string& name : names()) {
    if (frozen(name)) RETURN_IF_ERROR(Thaw(name));
    if (!running(name)) RETURN_IF_ERROR(BeginRestart(name));
  }
  return WaitLive();
}

Status Cluster::Arm(const std::string& name, const std::string& orders) {
  if (!options_.failpoints) {
    return absl::FailedPreconditionError("the cluster was made without failpoints");
  }
  const std::string path = OrdersPath(name);
  {
    std::ofstream out(path, std::ios::trunc);
    out << orders;
    if (!out) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  }
  RETURN_IF_ERROR(Signal(name, SIGUSR1));
  StopSignal never;
  const TimeNs until = RealClock().NowNs() + kArmTimeoutNs;
  while (std::filesystem::exists(path) && running(name)) {
    if (RealClock().NowNs() > until) {
      return absl::DeadlineExceededError(absl::StrCat(name, " did not take ", orders));
    }
    never.WaitFor(kMillisecond);
  }
  return absl::OkStatus();
}

std::map<std::string, int64_t> Cluster::Hits(const std::string& name) const {
  std::map<std::string, int64_t> hits;
  if (frozen(name)) return hits;
  const auto page = ScrapeMetrics(addresses(name).metrics);
  if (!page.ok()) return hits;
  constexpr absl::string_view kPrefix = "reprise_failpoint_hits_total{name=\"";
  for (absl::string_view line : absl::StrSplit(*page, '\n')) {
    if (!absl::StartsWith(line, kPrefix)) continue;
    line.remove_prefix(kPrefix.size());
    double value = 0;
    const size_t end = line.find('"');
    if (end == absl::string_view::npos ||
        !absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value)) {
      continue;
    }
    hits[std::string(line.substr(0, end))] = static_cast<int64_t>(value);
  }
  return hits;
}

}  // namespace reprise::harness
