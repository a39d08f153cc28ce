// Keeps the processes of a one-machine cluster running: starts them in order, waits until each says
// it is ready, restarts one that ends, and stops all of them. Used by `reprise up`; one thread.
//
// Invariants:
// 1. A child never outlives the supervisor: it gets SIGTERM, then SIGKILL after the grace period,
//    and the kernel kills it when this process dies.
// 2. A restarted child keeps its name and its gRPC port, and has a new incarnation.
#ifndef REPRISE_CLI_SUPERVISOR_H_
#define REPRISE_CLI_SUPERVISOR_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/role.h"
#include "common/status.h"
#include "common/subprocess.h"

namespace reprise::cli {

struct ChildSpec {
  std::string name;               // also of its log and ready files
  std::vector<std::string> args;  // after the program's own name; without --listen
  std::string listen = "127.0.0.1:0";
  std::vector<std::pair<std::string, std::string>> extra_env = {};
  // Before the program, for tests: a command that becomes it, elsewhere (a network namespace).
  std::vector<std::string> launcher = {};
};

class Supervisor {
 public:
  struct Options {
    std::string program;    // path of the reprise binary
    std::string state_dir;  // exists
    TimeNs ready_timeout_ns = 120 * kSecond;
    TimeNs grace_ns = 5 * kSecond;
    bool restart = true;
  };
  explicit Supervisor(Options options) : options_(std::move(options)) {}
  ~Supervisor() { StopAll(); }

  // Starts a child; WaitReady waits for all started so far.
  Status Start(ChildSpec spec);
  Status WaitReady(StopSignal* stop);
  // Starts a child anew, ended or not (then it is killed); WaitReady waits for it again.
  Status Restart(const std::string& name);
  // NOT_FOUND once the child has ended.
  Status Signal(const std::string& name, int signal) {
    return children_.at(name).process->Kill(signal);
  }
  // How the child ended; empty when it still runs after `timeout_ns`.
  std::optional<ExitStatus> WaitEnd(const std::string& name, TimeNs timeout_ns) {
    return children_.at(name).process->Wait(timeout_ns);
  }

  const RoleAddresses& addresses(const std::string& name) const { return children_.at(name).ready; }
  std::string log_path(const std::string& name) const;
  std::string LastLogLines(const std::string& name) const;
  pid_t pid(const std::string& name) const { return children_.at(name).process->pid(); }
  std::vector<std::string> names() const { return order_; }

  // Restarts children that ended, until told to stop. `on_event` is told in words.
  Status Watch(StopSignal* stop, const std::function<void(const std::string&)>& on_event);
  void StopAll();

 private:
  struct Child {
    ChildSpec spec;
    std::unique_ptr<Subprocess> process;
    RoleAddresses ready;
    bool is_ready = false;
    TimeNs started_ns = 0;
    int quick_deaths = 0;      // in a row
    TimeNs restart_at_ns = 0;  // 0: running
  };
  Status Spawn(Child& child);
  std::string ready_path(const std::string& name) const;

  const Options options_;
  std::map<std::string, Child> children_;
  std::vector<std::string> order_;
};

}  // namespace reprise::cli

#endif  // REPRISE_CLI_SUPERVISOR_H_
