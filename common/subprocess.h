// A child process that never outlives its owner: killed and reaped by the destructor, and killed by
// the kernel when the spawning thread dies. Any thread may call the methods.
//
// Hazard: Linux sends the death signal when the *thread* that spawned exits, so spawn from a thread
// that lives as long as the child should (the main thread).
#ifndef REPRISE_COMMON_SUBPROCESS_H_
#define REPRISE_COMMON_SUBPROCESS_H_

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/status.h"

namespace reprise {

struct SubprocessOutput {
  enum class Kind { kInherit, kFile, kPipe };
  Kind kind = Kind::kInherit;
  std::string path;  // kFile: appended to, created with mode 0644; equal paths share one descriptor
  static SubprocessOutput Inherit() { return {}; }
  static SubprocessOutput File(std::string path) { return {Kind::kFile, std::move(path)}; }
  static SubprocessOutput Pipe() { return {Kind::kPipe, ""}; }
};

struct SubprocessOptions {
  std::vector<std::string> argv;  // argv[0] is searched in PATH unless it has a slash
  std::vector<std::pair<std::string, std::string>> extra_env;  // replaces inherited variables
  SubprocessOutput out;                                        // standard output
  SubprocessOutput err;                                        // standard error
};

struct ExitStatus {
  int code = 0;    // exit code, when signal == 0
  int signal = 0;  // the signal that ended it, else 0
  bool ok() const { return code == 0 && signal == 0; }
  std::string ToString() const;  // "exit code 1", "signal 9"
};

class Subprocess {
 public:
  // NOT_FOUND, PERMISSION_DENIED and so on when argv[0] cannot be executed. Standard input is
  // /dev/null; no other descriptor of this process reaches the child.
  static StatusOr<std::unique_ptr<Subprocess>> Spawn(const SubprocessOptions& options);
  ~Subprocess();  // SIGKILL, then reaps
  Subprocess(const Subprocess&) = delete;
  Subprocess& operator=(const Subprocess&) = delete;

  pid_t pid() const { return pid_; }
  // Read ends of pipes, -1 otherwise; owned by this object.
  int out_fd() const { return out_fd_; }
  int err_fd() const { return err_fd_; }

  // NOT_FOUND once it has been reaped, so a reused pid is never signalled.
  Status Kill(int signal);
  // Empty on timeout; may be called again and from several threads.
  std::optional<ExitStatus> Wait(TimeNs timeout_ns);
  ExitStatus Wait();
  bool running() const;

 private:
  struct State;
  Subprocess(pid_t pid, int out_fd, int err_fd);
  const pid_t pid_;
  const int out_fd_;
  const int err_fd_;
  std::unique_ptr<State> state_;
};

}  // namespace reprise

#endif  // REPRISE_COMMON_SUBPROCESS_H_
