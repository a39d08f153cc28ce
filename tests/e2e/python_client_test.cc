// The example in docs/examples/python against a real cluster: it prints the very text that our own
// client gets for the same seed.
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

  const auto scratch = harness::ScratchDir::Create();
  ASSERT_TRUE(scratch.ok()) << scratch.status();
  SubprocessOptions run;
  run.argv = {"tests/e2e/python_client.sh", (*up)->gateway(),
              ProjectFile("docs/examples/python/generate.py"), (*scratch)->path()};
  run.out = SubprocessOutput::Pipe();
  const auto process = Subprocess::Spawn(run);
  ASSERT_TRUE(process.ok()) << process.status();
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read((*process)->out_fd(), buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  const ExitStatus exit = (*process)->Wait();
  if (exit.code == kNoPython) {
    GTEST_SKIP() << "no Python gRPC here and no package index to get it from";
  }
  ASSERT_TRUE(exit.ok()) << exit.ToString() << text;
  EXPECT_THAT(text, testing::HasSubstr(want->branches[0].text));
}

}  // namespace
}  // namespace reprise
