// A group of real processes over UCX: one is killed or stopped in the middle of its all-reduces,
// the others fail within their deadline, form the next epoch with a spare and have the right sum.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "common/crc32c.h"
#include "common/subprocess.h"

namespace reprise::parallel {
namespace {

constexpr int kPatienceMs = 60'000;
constexpr size_t kElements = 3'000'001;  // 12 MB
const char* const kProgram = "worker/parallel/rank_process";

// A rank's process and the socket that commands it.
class RankProcess {
 public:
  explicit RankProcess(bool shared_memory) {
    static int number = 0;
    const std::string path = absl::StrCat("reprise.rank.", getpid(), ".", ++number);
    const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    std::snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "%s", path.c_str());
    EXPECT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address), 0) << path;
    EXPECT_EQ(listen(listener, 1), 0);
    auto spawned = Subprocess::Spawn({.argv = {kProgram, shared_memory ? "shm" : "tcp", path},
                                      .extra_env = {},
                                      .out = SubprocessOutput::Inherit(),
                                      .err = SubprocessOutput::Inherit()});
    EXPECT_TRUE(spawned.ok()) << spawned.status();
    process_ = std::move(*spawned);
    pollfd waiting{.fd = listener, .events = POLLIN, .revents = 0};
    EXPECT_EQ(poll(&waiting, 1, kPatienceMs), 1) << "the rank did not start";
    commands_ = accept(listener, nullptr, nullptr);
    close(listener);
    port_ = Hear();
  }
  ~RankProcess() { close(commands_); }

  const std::string& port() const { return port_; }
  void Tell(const std::string& line) { dprintf(commands_, "%s\n", line.c_str()); }
  // The next line it says; empty when it says none in time.
  std::string Hear() {
    std::string line;
    for (;;) {
      pollfd waiting{.fd = commands_, .events = POLLIN, .revents = 0};
      char c = 0;
      if (poll(&waiting, 1, kPatienceMs) != 1 || read(commands_, &c, 1) != 1) return "";
      if (c == '\n') return line;
      line += c;
    }
  }
  // SIGSTOP takes effect before this returns.
  void Signal(int signal) {
    ASSERT_TRUE(process_->Kill(signal).ok());
    if (signal != SIGSTOP) return;
    siginfo_t stopped{};
    ASSERT_EQ(waitid(P_PID, static_cast<id_t>(process_->pid()), &stopped, WSTOPPED | WNOWAIT), 0);
  }

 private:
  std::unique_ptr<Subprocess> process_;
  int commands_ = -1;
  std::string port_;
};

class GroupProcessTest : public testing::TestWithParam<bool> {
 protected:
  GroupProcessTest() {
    for (int i = 0; i < 4; ++i) {
      processes_.push_back(std::make_unique<RankProcess>(GetParam()));
    }
  }
  // Ranks 0 to 2 are these processes.
  void Join(int epoch, const std::vector<int>& members) {
    std::string ports;
    for (const int i : members) absl::StrAppend(&ports, " ", of(i).port());
    for (size_t r = 0; r < members.size(); ++r) {
      of(members[r]).Tell(absl::StrCat("join ", epoch, " ", r, " ", members.size(), ports));
    }
    for (const int i : members) EXPECT_EQ(of(i).Hear(), "ok 0");
  }
  void ExpectSums(const std::vector<int>& members) {
    const float sum = (0.1F * 1 + 0.1F * 2) + 0.1F * 3;
    const std::vector<float> expected(kElements, sum);
    const std::string ok = absl::StrCat("ok ", Crc32c(expected.data(), kElements * sizeof(float)));
    for (const int i : members) of(i).Tell(absl::StrCat("reduce ", kElements, " 60000 3"));
    for (const int i : members) {
      EXPECT_EQ(of(i).Hear(), "reducing");
      EXPECT_EQ(of(i).Hear(), ok);
    }
  }
  // All three reduce again and again; the signal finds rank 1 in the middle of it.
  void SignalInMidReduce(int signal, int timeout_ms) {
    for (int i = 0; i < 3; ++i)
      of(i).Tell(absl::StrCat("reduce ", kElements, " ", timeout_ms, " 0"));
    for (int i = 0; i < 3; ++i) EXPECT_EQ(of(i).Hear(), "reducing");
    of(1).Signal(signal);
  }
  RankProcess& of(int i) { return *processes_[static_cast<size_t>(i)]; }
  std::vector<std::unique_ptr<RankProcess>> processes_;
};

TEST_P(GroupProcessTest, AKilledRankEndsTheOthersAndASpareTakesItsPlace) {
  Join(1, {0, 1, 2});
  ExpectSums({0, 1, 2});
  // The deadline is far: death itself ends the calls.
  SignalInMidReduce(SIGKILL, 600'000);
  for (const int i : {0, 2}) EXPECT_THAT(of(i).Hear(), testing::StartsWith("error 14 "));
  Join(2, {0, 3, 2});
  ExpectSums({0, 3, 2});
}

TEST_P(GroupProcessTest, AStoppedRankEndsTheOthersAtTheirDeadlineAndIsRefusedLater) {
  Join(1, {0, 1, 2});
  SignalInMidReduce(SIGSTOP, 3'000);
  for (const int i : {0, 2}) EXPECT_THAT(of(i).Hear(), testing::StartsWith("error 4 "));
  Join(2, {0, 3, 2});
  ExpectSums({0, 3, 2});
  of(1).Signal(SIGCONT);
  EXPECT_THAT(of(1).Hear(), testing::StartsWith("error "));
  // The epoch it was in is spent.
  std::string ports;
  for (const int i : {0, 1, 2}) absl::StrAppend(&ports, " ", of(i).port());
  of(1).Tell("join 1 1 3" + ports);
  EXPECT_THAT(of(1).Hear(), testing::StartsWith("error 9 "));
  ExpectSums({0, 3, 2});
}

INSTANTIATE_TEST_SUITE_P(Transports, GroupProcessTest, testing::Values(true, false),
                         [](const auto& info) { return info.param ? "SharedMemory" : "Tcp"; });

}  // namespace
}  // namespace reprise::parallel
