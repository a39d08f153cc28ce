// The example in docs/examples/python against a real cluster: it prints the very text that our own
// client gets for the same seed. And its own test, against scripted gateways.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "cli/client/generation_client.h"
#include "common/subprocess.h"
#include "common/test_data.h"
#include "tests/cluster/up.h"

namespace reprise {
namespace {

constexpr int kNoPython = 77;

// Its output and how it ended; nothing without Python gRPC.
struct Ran {
  std::string text;
  ExitStatus exit;
};
StatusOr<Ran> RunExample(const std::string& address) {
  ASSIGN_OR_RETURN(const auto scratch, harness::ScratchDir::Create());
  SubprocessOptions run;
  run.argv = {"tests/e2e/python_client.sh", address,
              ProjectFile("docs/examples/python/generate.py"), scratch->path()};
  run.out = SubprocessOutput::Pipe();
  ASSIGN_OR_RETURN(const auto process, Subprocess::Spawn(run));
  Ran ran;
  char buffer[4096];
  for (ssize_t n; (n = read(process->out_fd(), buffer, sizeof buffer)) > 0;) {
    ran.text.append(buffer, static_cast<size_t>(n));
  }
  ran.exit = process->Wait();
  return ran;
}

TEST(PythonClientTest, PrintsTheSameTextAsOurClient) {
  auto up = harness::Up::Start("cli/reprise", ProjectFile("models/demo"));
  ASSERT_TRUE(up.ok()) << up.status();
  client::GenerationClient client({.address = (*up)->gateway()});
  v1::GenerateRequest request;
  request.set_text("Once upon a time");
  request.mutable_sampling()->set_seed(3);
  request.mutable_sampling()->set_max_tokens(24);
  const auto want = client.Generate(request);
  ASSERT_TRUE(want.ok()) << want.status();

  // The first gateway is not there.
  const auto ran = RunExample("127.0.0.1:1," + (*up)->gateway());
  ASSERT_TRUE(ran.ok()) << ran.status();
  if (ran->exit.code == kNoPython) {
    GTEST_SKIP() << "no Python gRPC here and no package index to get it from";
  }
  ASSERT_TRUE(ran->exit.ok()) << ran->exit.ToString() << ran->text;
  EXPECT_THAT(ran->text, testing::HasSubstr(want->branches[0].text));
}

TEST(PythonClientTest, ResumesBrokenStreams) {
  const auto ran = RunExample("test");
  ASSERT_TRUE(ran.ok()) << ran.status();
  if (ran->exit.code == kNoPython) {
    GTEST_SKIP() << "no Python gRPC here and no package index to get it from";
  }
  EXPECT_TRUE(ran->exit.ok()) << ran->exit.ToString() << ran->text;
  EXPECT_THAT(ran->text, testing::HasSubstr("OK"));
}

}  // namespace
}  // namespace reprise
