#include "tests/cluster/up.h"

#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cli/command.h"
#include "cli/coordinators.h"

namespace reprise::harness {
namespace {

constexpr TimeNs kReadyTimeoutNs = 180 * kSecond;
constexpr TimeNs kPollNs = 20 * kMillisecond;

std::string ReadAll(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

StatusOr<std::unique_ptr<Up>> Up::Start(const std::string& program, const std::string& model,
                                        const std::vector<std::string>& flags,
                                        const std::vector<std::string>& names) {
  std::unique_ptr<Up> up(new Up());
  ASSIGN_OR_RETURN(up->dir_, ScratchDir::Create());
  up->state_dir_ = up->dir_->path() + "/state";
  SubprocessOptions run;
  run.argv = {program, "up", model, "--state-dir=" + up->state_dir_, "--listen=127.0.0.1:0"};
  run.argv.insert(run.argv.end(), flags.begin(), flags.end());
  run.out = SubprocessOutput::File(up->dir_->path() + "/up.log");
  run.err = run.out;
  ASSIGN_OR_RETURN(up->process_, Subprocess::Spawn(run));
  RETURN_IF_ERROR(up->WaitReady(names));
  const auto nodes = std::count_if(names.begin(), names.end(), [](const std::string& name) {
    return !absl::StartsWith(name, "coordinator") && !absl::StartsWith(name, "gateway");
  });
  RETURN_IF_ERROR(up->WaitLive(static_cast<int>(nodes)));
  return up;
}

std::vector<std::string> Up::DefaultNames() {
  return {"coordinator", "prefill-0", "decode-0", "decode-1", "store-0", "store-1", "gateway"};
}

std::string Up::Doors(const std::string& role) const {
  std::vector<std::string> doors;
  for (const auto& [name, at] : addresses_) {
    if (absl::StartsWith(name, role)) doors.push_back(at.grpc);
  }
  return absl::StrJoin(doors, ",");
}

Status Up::WaitReady(const std::vector<std::string>& names) {
  StopSignal never;
  const TimeNs until = RealClock().NowNs() + kReadyTimeoutNs;
  for (const std::string& name : names) {
    while (true) {
      auto ready = cli::ReadReadyFile(absl::StrCat(state_dir_, "/", name, ".ready"));
      if (ready.ok()) {
        addresses_[name] = *std::move(ready);
        break;
      }
      if (!process_->running() || RealClock().NowNs() > until) {
        return absl::UnavailableError(absl::StrCat(name, " did not become ready: ", Output()));
      }
      never.WaitFor(kPollNs);
    }
  }
  return absl::OkStatus();
}

Up::~Up() {
  if (process_ != nullptr) (void)Stop(20 * kSecond);
}

StatusOr<v1::ClusterStatus> Up::QueryStatus() const {
  ASSIGN_OR_RETURN(cli::Coordinators group, cli::Coordinators::Connect(Doors("coordinator")));
  return group.GetStatus();
}

Status Up::WaitLive(int nodes) const {
  StopSignal never;
  const TimeNs until = RealClock().NowNs() + kReadyTimeoutNs;
  while (true) {
    const auto status = QueryStatus();
    int live = 0;
    if (status.ok()) {
      for (const v1::NodeStatus& node : status->nodes()) {
        live += node.state() == "live" && node.node().role() != v1::ROLE_GATEWAY;
      }
    }
    if (live >= nodes) return absl::OkStatus();
    if (RealClock().NowNs() > until) {
      return absl::DeadlineExceededError(
          absl::StrCat(live, " of ", nodes, " workers and stores are live: ", Output()));
    }
    never.WaitFor(kPollNs);
  }
}

std::vector<pid_t> Up::ChildPids() const {
  std::vector<pid_t> pids;
  const std::string task = absl::StrCat("/proc/", pid(), "/task/", pid(), "/children");
  for (const absl::string_view word :
       absl::StrSplit(ReadAll(task), absl::ByAnyChar(" \n"), absl::SkipEmpty())) {
    pid_t child = 0;
    if (absl::SimpleAtoi(word, &child)) pids.push_back(child);
  }
  return pids;
}

StatusOr<pid_t> Up::ChildPid(const std::string& name) const {
  for (const pid_t child : ChildPids()) {
    const std::vector<std::string> argv =
        absl::StrSplit(ReadAll(absl::StrCat("/proc/", child, "/cmdline")), '\0');
    const std::string ready = absl::StrCat("--ready-file=", state_dir_, "/", name, ".ready");
    if (std::find(argv.begin(), argv.end(), ready) != argv.end()) return child;
  }
  return absl::NotFoundError(absl::StrCat("no process ", name, " runs"));
}

std::optional<ExitStatus> Up::Stop(TimeNs timeout_ns) {
  (void)process_->Kill(SIGTERM);
  return process_->Wait(timeout_ns);
}

std::string Up::Output() const { return ReadAll(dir_->path() + "/up.log"); }

}  // namespace reprise::harness
