#include "common/subprocess.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

namespace reprise {
namespace {

std::string ReadAll(int fd) {
  std::string text;
  char buffer[4096];
  ssize_t n;
  while ((n = read(fd, buffer, sizeof(buffer))) > 0) text.append(buffer, n);
  return text;
}

SubprocessOptions Shell(const std::string& script) {
  SubprocessOptions options;
  options.argv = {"sh", "-c", script};
  return options;
}

TEST(Subprocess, ReportsItsExit) {
  auto child = Subprocess::Spawn(Shell("exit 7"));
  ASSERT_TRUE(child.ok()) << child.status();
  const ExitStatus exit = (*child)->Wait();
  EXPECT_EQ(exit.code, 7);
  EXPECT_EQ(exit.signal, 0);
  EXPECT_FALSE(exit.ok());
  EXPECT_EQ(exit.ToString(), "exit code 7");
  EXPECT_FALSE((*child)->running());
  EXPECT_EQ((*child)->Wait(0)->code, 7);
  EXPECT_TRUE(absl::IsNotFound((*child)->Kill(SIGTERM)));
}

TEST(Subprocess, CapturesBothPipes) {
  SubprocessOptions options = Shell("echo out; echo err >&2; cat; exit 0");
  options.out = SubprocessOutput::Pipe();
  options.err = SubprocessOutput::Pipe();
  auto child = Subprocess::Spawn(options);
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(ReadAll((*child)->out_fd()), "out\n");
  EXPECT_EQ(ReadAll((*child)->err_fd()), "err\n");
  EXPECT_TRUE((*child)->Wait().ok());
}

TEST(Subprocess, AppendsToFiles) {
  const std::string path = testing::TempDir() + "/subprocess_test.out";
  unlink(path.c_str());
  for (const char* script : {"echo first", "echo second >&2"}) {
    SubprocessOptions options = Shell(script);
    options.out = SubprocessOutput::File(path);
    options.err = SubprocessOutput::File(path);
    auto child = Subprocess::Spawn(options);
    ASSERT_TRUE(child.ok()) << child.status();
    EXPECT_TRUE((*child)->Wait().ok());
  }
  std::ifstream file(path);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "first\nsecond\n");
}

TEST(Subprocess, AddsAndReplacesEnvironment) {
  SubprocessOptions options = Shell("echo $ADDED-$PATH; env | grep -c ^PATH=");
  options.argv[0] = "/bin/sh";
  options.extra_env = {{"ADDED", "a b"}, {"PATH", "/usr/bin:/bin"}};
  options.out = SubprocessOutput::Pipe();
  auto child = Subprocess::Spawn(options);
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(ReadAll((*child)->out_fd()), "a b-/usr/bin:/bin\n1\n");
}

TEST(Subprocess, NamesWhatCannotBeExecuted) {
  SubprocessOptions options;
  EXPECT_TRUE(absl::IsInvalidArgument(Subprocess::Spawn(options).status()));
  options.argv = {"/no/such/program"};
  const Status status = Subprocess::Spawn(options).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("/no/such/program"));
  options.argv = {"/etc/passwd"};
  EXPECT_TRUE(absl::IsPermissionDenied(Subprocess::Spawn(options).status()));
  options = Shell("true");
  options.out = SubprocessOutput::File("/no/such/folder/log");
  EXPECT_THAT(std::string(Subprocess::Spawn(options).status().message()),
              testing::HasSubstr("/no/such/folder/log"));
}

TEST(Subprocess, IsKilledAndTimesOutBefore) {
  SubprocessOptions options;
  options.argv = {"sleep", "600"};
  auto child = Subprocess::Spawn(options);
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ((*child)->Wait(kMillisecond), std::nullopt);
  EXPECT_TRUE((*child)->running());
  ASSERT_TRUE((*child)->Kill(SIGTERM).ok());
  const auto exit = (*child)->Wait(30 * kSecond);
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->signal, SIGTERM);
  EXPECT_EQ(exit->ToString(), "signal 15");
}

TEST(Subprocess, IsKilledAndReapedWithItsOwner) {
  SubprocessOptions options;
  options.argv = {"sleep", "600"};
  auto child = Subprocess::Spawn(options);
  ASSERT_TRUE(child.ok()) << child.status();
  const pid_t pid = (*child)->pid();
  child->reset();
  EXPECT_EQ(kill(pid, 0), -1);  // not even a zombie is left
  EXPECT_EQ(errno, ESRCH);
}

TEST(Subprocess, InheritsNoDescriptor) {
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);  // without close-on-exec, as a careless library would
  SubprocessOptions options = Shell(absl::StrCat("test -e /proc/self/fd/", fds[1]));
  auto child = Subprocess::Spawn(options);
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ((*child)->Wait().code, 1);
  close(fds[0]);
  close(fds[1]);
}

// A process between spawns a grandchild that holds the pipe, then dies without any clean-up: the
// pipe's end shows that the grandchild died too.
TEST(Subprocess, DiesWithAParentThatDiesSuddenly) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  const pid_t between = fork();
  if (between == 0) {
    dup2(fds[1], STDOUT_FILENO);
    SubprocessOptions options;
    options.argv = {"sleep", "600"};
    auto child = Subprocess::Spawn(options);
    _exit(child.ok() ? 0 : 1);
  }
  close(fds[1]);
  int status = 0;
  ASSERT_EQ(waitpid(between, &status, 0), between);
  EXPECT_EQ(status, 0);
  pollfd entry = {fds[0], POLLIN, 0};
  ASSERT_EQ(poll(&entry, 1, 30'000), 1);
  char byte;
  EXPECT_EQ(read(fds[0], &byte, 1), 0);
  close(fds[0]);
}

}  // namespace
}  // namespace reprise
