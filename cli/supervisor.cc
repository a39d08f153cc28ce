#include "cli/supervisor.h"

#include <signal.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_join.h"
#include "cli/command.h"

namespace reprise::cli {
namespace {

constexpr TimeNs kPollNs = 20 * kMillisecond;
constexpr TimeNs kWatchNs = 100 * kMillisecond;
// A child that lived shorter than this died of its start, not of its work.
constexpr TimeNs kQuickDeathNs = 5 * kSecond;
constexpr int kQuickDeathsMax = 5;
constexpr size_t kLastLogLines = 40;  // a crash with its stack and what led to it

}  // namespace

std::string Supervisor::ready_path(const std::string& name) const {
  return absl::StrCat(options_.state_dir, "/", name, ".ready");
}

std::string Supervisor::log_path(const std::string& name) const {
  return absl::StrCat(options_.state_dir, "/", name, ".log");
}

std::string Supervisor::LastLogLines(const std::string& name) const {
  std::ifstream in(log_path(name));
  std::deque<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    lines.push_back(line);
    if (lines.size() > kLastLogLines) lines.pop_front();
  }
  return absl::StrJoin(lines, "\n");
}

Status Supervisor::Start(ChildSpec spec) {
  const std::string name = spec.name;
  std::error_code ignored;
  std::filesystem::remove(log_path(name), ignored);
  Child& child = children_[name];
  child.spec = std::move(spec);
  order_.push_back(name);
  return Spawn(child);
}

Status Supervisor::Spawn(Child& child) {
  std::error_code ignored;
  std::filesystem::remove(ready_path(child.spec.name), ignored);
  SubprocessOptions process;
  process.argv = child.spec.launcher;
  process.argv.push_back(options_.program);
  process.argv.insert(process.argv.end(), child.spec.args.begin(), child.spec.args.end());
  process.argv.push_back("--listen=" + child.spec.listen);
  process.argv.push_back("--ready-file=" + ready_path(child.spec.name));
  process.extra_env = child.spec.extra_env;
  process.out = SubprocessOutput::File(log_path(child.spec.name));
  process.err = process.out;
  ASSIGN_OR_RETURN(child.process, Subprocess::Spawn(process));
  child.started_ns = RealClock().NowNs();
  child.is_ready = false;
  child.restart_at_ns = 0;
  return absl::OkStatus();
}

Status Supervisor::Restart(const std::string& name) {
  Child& child = children_.at(name);
  child.process = nullptr;  // kills and reaps
  return Spawn(child);
}

Status Supervisor::WaitReady(StopSignal* stop) {
  const TimeNs until = RealClock().NowNs() + options_.ready_timeout_ns;
  for (const std::string& name : order_) {
    Child& child = children_.at(name);
    while (!child.is_ready) {
      if (auto ready = ReadReadyFile(ready_path(name)); ready.ok()) {
        child.ready = *std::move(ready);
        child.is_ready = true;
        child.spec.listen = child.ready.grpc;
        break;
      }
      if (!child.process->running()) {
        return absl::UnavailableError(absl::StrCat(name, " ended at start; the end of ",
                                                   log_path(name), ":\n", LastLogLines(name)));
      }
      if (RealClock().NowNs() > until) {
        return absl::DeadlineExceededError(
            absl::StrCat(name, " was not ready after ", SecondsFromNs(options_.ready_timeout_ns),
                         " s; the end of ", log_path(name), ":\n", LastLogLines(name)));
      }
      if (stop->WaitFor(kPollNs)) return absl::CancelledError("stopped while starting");
    }
  }
  return absl::OkStatus();
}

Status Supervisor::Watch(StopSignal* stop,
                         const std::function<void(const std::string&)>& on_event) {
  while (!stop->WaitFor(kWatchNs)) {
    const TimeNs now = RealClock().NowNs();
    for (const std::string& name : order_) {
      Child& child = children_.at(name);
      if (child.restart_at_ns != 0) {
        if (now < child.restart_at_ns) continue;
        RETURN_IF_ERROR(Spawn(child));
        on_event(absl::StrCat(name, " restarted, pid ", child.process->pid()));
        continue;
      }
      const auto exit = child.process->Wait(0);
      if (!exit.has_value()) continue;
      const bool quick = now - child.started_ns < kQuickDeathNs;
      child.quick_deaths = quick ? child.quick_deaths + 1 : 0;
      on_event(absl::StrCat(name, " ended with ", exit->ToString()));
      if (!options_.restart) continue;
      if (child.quick_deaths >= kQuickDeathsMax) {
        return absl::UnavailableError(absl::StrCat(name, " ended ", child.quick_deaths,
                                                   " times right after its start; the end of ",
                                                   log_path(name), ":\n", LastLogLines(name)));
      }
      child.restart_at_ns = now + (100 * kMillisecond << child.quick_deaths);
    }
  }
  return absl::OkStatus();
}

void Supervisor::StopAll() {
  // The door closes first, the coordinator last.
  for (auto name = order_.rbegin(); name != order_.rend(); ++name) {
    Child& child = children_.at(*name);
    if (child.process == nullptr) continue;
    (void)child.process->Kill(SIGTERM);
    (void)child.process->Kill(SIGCONT);  // a stopped one would not hear it
  }
  const TimeNs until = RealClock().NowNs() + options_.grace_ns;
  for (const std::string& name : order_) {
    Child& child = children_.at(name);
    if (child.process == nullptr) continue;
    const TimeNs left = std::max<TimeNs>(0, until - RealClock().NowNs());
    if (!child.process->Wait(left).has_value()) (void)child.process->Kill(SIGKILL);
    child.process = nullptr;
    std::error_code ignored;
    std::filesystem::remove(ready_path(name), ignored);
  }
  children_.clear();
  order_.clear();
}

}  // namespace reprise::cli
