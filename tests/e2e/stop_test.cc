// An idle cluster takes next to nothing, and a stopped one leaves nothing behind.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>

#include "cli/client/generation_client.h"
#include "common/role.h"
#include "common/test_data.h"
#include "tests/cluster/up.h"

namespace reprise {
namespace {

constexpr double kIdleCoreMax = 0.03;
constexpr TimeNs kSettleNs = 3 * kSecond;
constexpr TimeNs kWatchNs = 10 * kSecond;
constexpr int kSpansMax = 6;

StatusOr<double> CpuSecondsOf(const harness::Up& up) {
  ASSIGN_OR_RETURN(double seconds, harness::ProcessCpuSeconds(up.pid()));
  for (const pid_t child : up.ChildPids()) {
    ASSIGN_OR_RETURN(const double more, harness::ProcessCpuSeconds(child));
    seconds += more;
  }
  return seconds;
}

TEST(StopTest, AnIdleClusterUsesLittleAndAStoppedOneLeavesNothing) {
  auto up = harness::Up::Start("cli/reprise", ProjectFile("models/demo"));
  ASSERT_TRUE(up.ok()) << up.status();
  harness::Up& cluster = **up;
  {
    client::GenerationClient client({.address = cluster.gateway()});
    v1::GenerateRequest request;
    request.set_text("Once upon a time");
    const auto answer = client.Generate(request);
    ASSERT_TRUE(answer.ok()) << answer.status();
  }
  ASSERT_EQ(cluster.ChildPids().size(), 7u);

  // Time has to pass for this one: the figure is CPU time over a span of it. Whatever else the
  // machine does only adds to it, so the least of some spans is the cluster's own.
  StopSignal never;
  never.WaitFor(kSettleNs);
  double cores = 1;
  for (int span = 0; span < kSpansMax && cores >= kIdleCoreMax; ++span) {
    const auto before = CpuSecondsOf(cluster);
    const TimeNs start = RealClock().NowNs();
    never.WaitFor(kWatchNs);
    const auto after = CpuSecondsOf(cluster);
    ASSERT_TRUE(before.ok() && after.ok()) << before.status() << after.status();
    cores = std::min(cores, (*after - *before) / SecondsFromNs(RealClock().NowNs() - start));
  }
#ifndef REPRISE_SANITIZER  // what the sanitizers add is not the product's
  EXPECT_LT(cores, kIdleCoreMax);
#endif
  RecordProperty("idle_cores", std::to_string(cores));

  const std::vector<pid_t> children = cluster.ChildPids();
  const auto exit = cluster.Stop(15 * kSecond);
  ASSERT_TRUE(exit.has_value()) << cluster.Output();
  EXPECT_TRUE(exit->ok()) << exit->ToString() << cluster.Output();
  for (const pid_t child : children) EXPECT_NE(kill(child, 0), 0) << child;
  for (const auto& file : std::filesystem::directory_iterator(cluster.state_dir())) {
    EXPECT_NE(file.path().extension(), ".ready") << file.path();
  }
}

}  // namespace
}  // namespace reprise
