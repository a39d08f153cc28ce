// An idle cluster sleeps, and a stopped one leaves nothing behind.
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>

#include "cli/client/generation_client.h"
#include "common/role.h"
#include "common/test_data.h"
#include "tests/cluster/up.h"

namespace reprise {
namespace {

// What that costs depends on the machine; bench/idle_bench.cc measures it.
constexpr double kWakesPerSecondMax = 500;
constexpr TimeNs kSettleNs = 3 * kSecond;
constexpr TimeNs kWatchNs = 10 * kSecond;

StatusOr<int64_t> SleepsOf(const harness::Up& up) {
  ASSIGN_OR_RETURN(int64_t sleeps, harness::ProcessSleeps(up.pid()));
  for (const pid_t child : up.ChildPids()) {
    ASSIGN_OR_RETURN(const int64_t more, harness::ProcessSleeps(child));
    sleeps += more;
  }
  return sleeps;
}

TEST(StopTest, AnIdleClusterSleepsAndAStoppedOneLeavesNothing) {
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

  // Time has to pass for this one: the figure is a count over a span of it.
  StopSignal never;
  never.WaitFor(kSettleNs);
  const auto before = SleepsOf(cluster);
  const TimeNs start = RealClock().NowNs();
  never.WaitFor(kWatchNs);
  const auto after = SleepsOf(cluster);
  ASSERT_TRUE(before.ok() && after.ok()) << before.status() << after.status();
  const double seconds = SecondsFromNs(RealClock().NowNs() - start);
  const double wakes_per_second = static_cast<double>(*after - *before) / seconds;
  EXPECT_LT(wakes_per_second, kWakesPerSecondMax);
  RecordProperty("idle_wakes_per_second", std::to_string(wakes_per_second));

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
