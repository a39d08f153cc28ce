// clang-format off: mutex.h comes first, since Abseil's headers define some of its macros.
#include "common/mutex.h"
// clang-format on
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "common/subprocess.h"
#include "common/thread.h"

extern char** environ;

namespace reprise {
namespace {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.Release()) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

struct Pipe {
  Fd read;
  Fd write;
};

StatusOr<Pipe> MakePipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe");
  return Pipe{Fd(fds[0]), Fd(fds[1])};
}

// The child's end, and this process's end of a pipe.
struct Stream {
  Fd child;
  Fd ours;
};

StatusOr<Stream> OpenStream(const SubprocessOutput& output, int inherited) {
  switch (output.kind) {
    case SubprocessOutput::Kind::kInherit: {
      const int fd = fcntl(inherited, F_DUPFD_CLOEXEC, 3);
      if (fd < 0) return absl::ErrnoToStatus(errno, "duplicating a standard stream");
      return Stream{Fd(fd), Fd()};
    }
    case SubprocessOutput::Kind::kFile: {
      const int fd = open(output.path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
      if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("opening ", output.path));
      return Stream{Fd(fd), Fd()};
    }
    case SubprocessOutput::Kind::kPipe: {
      ASSIGN_OR_RETURN(Pipe pipe, MakePipe());
      return Stream{std::move(pipe.write), std::move(pipe.read)};
    }
  }
  return absl::InternalError("unknown kind of output");
}

std::vector<char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> Environment(
    const std::vector<std::pair<std::string, std::string>>& extra) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const absl::string_view text(*entry);
    const bool replaced = std::any_of(extra.begin(), extra.end(), [&](const auto& variable) {
      return text.substr(0, text.find('=')) == variable.first;
    });
    if (!replaced) result.emplace_back(text);
  }
  for (const auto& [name, value] : extra) result.push_back(absl::StrCat(name, "=", value));
  return result;
}

// What the child needs after fork, made before it: there only async-signal-safe calls are allowed,
// since another thread may have held any lock.
struct ChildPlan {
  char** argv;
  char** environment;
  int in;
  int out;
  int err;
  int report;  // receives errno when exec fails; closed by a successful exec
  pid_t parent;
};

[[noreturn]] void RunChild(const ChildPlan& plan) {
  const auto fail = [&plan](int error) {
    const ssize_t ignored = write(plan.report, &error, sizeof(error));
    static_cast<void>(ignored);
    _exit(127);
  };
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail(errno);
  if (getppid() != plan.parent) _exit(127);  // the parent died before the request took effect
  // The sources are all above 2, so no dup2 overwrites a later one's source.
  if (dup2(plan.in, 0) < 0 || dup2(plan.out, 1) < 0 || dup2(plan.err, 2) < 0) fail(errno);
  // Libraries open descriptors without close-on-exec; a leaked socket would keep a dead parent's
  // port busy. Kernels before 5.11 refuse the flag, then only our own descriptors are covered.
  close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
  signal(SIGPIPE, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execvpe(plan.argv[0], plan.argv, plan.environment);
  fail(errno);
  _exit(127);
}

ExitStatus FromWait(int status) {
  if (WIFSIGNALED(status)) return {0, WTERMSIG(status)};
  return {WEXITSTATUS(status), 0};
}

// Standard descriptors may be closed in a daemon, and then pipes get numbers below 3.
StatusOr<Fd> AboveStandard(Fd fd) {
  if (fd.get() >= 3) return fd;
  const int moved = fcntl(fd.get(), F_DUPFD_CLOEXEC, 3);
  if (moved < 0) return absl::ErrnoToStatus(errno, "duplicating a descriptor");
  return Fd(moved);
}

}  // namespace

// A thread per child waits for its end: works on every kernel and needs no signal handler.
struct Subprocess::State {
  Mutex mu;
  CondVar ended;
  std::optional<ExitStatus> exit GUARDED_BY(mu);
  Thread waiter;
};

std::string ExitStatus::ToString() const {
  return signal != 0 ? absl::StrCat("signal ", signal) : absl::StrCat("exit code ", code);
}

StatusOr<std::unique_ptr<Subprocess>> Subprocess::Spawn(const SubprocessOptions& options) {
  if (options.argv.empty()) return absl::InvalidArgumentError("a child needs an argv");
  Fd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  ASSIGN_OR_RETURN(null, AboveStandard(std::move(null)));
  ASSIGN_OR_RETURN(Stream out, OpenStream(options.out, STDOUT_FILENO));
  ASSIGN_OR_RETURN(Stream err, OpenStream(options.err, STDERR_FILENO));
  ASSIGN_OR_RETURN(out.child, AboveStandard(std::move(out.child)));
  ASSIGN_OR_RETURN(err.child, AboveStandard(std::move(err.child)));
  ASSIGN_OR_RETURN(Pipe report, MakePipe());
  ASSIGN_OR_RETURN(report.write, AboveStandard(std::move(report.write)));
  const std::vector<std::string> environment = Environment(options.extra_env);
  std::vector<char*> argv = Pointers(options.argv);
  std::vector<char*> envp = Pointers(environment);
  const ChildPlan plan = {argv.data(),     envp.data(),        null.get(), out.child.get(),
                          err.child.get(), report.write.get(), getpid()};
  const pid_t pid = fork();
  if (pid < 0) return absl::ErrnoToStatus(errno, absl::StrCat("fork for ", options.argv[0]));
  if (pid == 0) RunChild(plan);

  report.write = Fd();
  int error = 0;
  ssize_t n;
  do {
    n = read(report.read.get(), &error, sizeof(error));
  } while (n < 0 && errno == EINTR);
  if (n == sizeof(error)) {
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    return absl::ErrnoToStatus(error, absl::StrCat("executing ", options.argv[0]));
  }
  return std::unique_ptr<Subprocess>(new Subprocess(pid, out.ours.Release(), err.ours.Release()));
}

Subprocess::Subprocess(pid_t pid, int out_fd, int err_fd)
    : pid_(pid), out_fd_(out_fd), err_fd_(err_fd), state_(std::make_unique<State>()) {
  state_->waiter = Thread("child-wait", [state = state_.get(), pid] {
    siginfo_t info;
    // Leaves the zombie, which keeps the pid ours until it is reaped under the lock Kill takes.
    while (waitid(P_PID, pid, &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
    }
    MutexLock lock(state->mu);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    state->exit = FromWait(status);
    state->ended.NotifyAll();
  });
}

Subprocess::~Subprocess() {
  Kill(SIGKILL).IgnoreError();
  state_->waiter.Join();
  if (out_fd_ >= 0) close(out_fd_);
  if (err_fd_ >= 0) close(err_fd_);
}

Status Subprocess::Kill(int signal) {
  MutexLock lock(state_->mu);
  if (state_->exit) return absl::NotFoundError(absl::StrCat("process ", pid_, " has ended"));
  if (kill(pid_, signal) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("signal ", signal, " to process ", pid_));
  }
  return absl::OkStatus();
}

std::optional<ExitStatus> Subprocess::Wait(TimeNs timeout_ns) {
  const TimeNs start_ns = RealClock().NowNs();
  MutexLock lock(state_->mu);
  while (!state_->exit) {
    const TimeNs remaining_ns = timeout_ns - (RealClock().NowNs() - start_ns);
    if (remaining_ns <= 0) return std::nullopt;
    state_->ended.WaitFor(state_->mu,
                          std::chrono::nanoseconds(std::min(remaining_ns, 60 * kMinute)));
  }
  return state_->exit;
}

ExitStatus Subprocess::Wait() {
  MutexLock lock(state_->mu);
  while (!state_->exit) state_->ended.Wait(state_->mu);
  return *state_->exit;
}

bool Subprocess::running() const {
  MutexLock lock(state_->mu);
  return !state_->exit.has_value();
}

}  // namespace reprise
