// What the process harness itself promises: restarts keep the door and change the incarnation,
// failpoints reach a running process, and a load over it is checked token by token.
#include "tests/cluster/cluster.h"

#include <gtest/gtest.h>
#include <signal.h>

#include "tests/cluster/checked_load.h"

namespace reprise::harness {
namespace {

constexpr TimeNs kTimeoutNs = 60 * kSecond;

worker::TimedModel Model() { return {.layers = 2, .row_bytes = 8, .block_tokens = 16}; }

class ClusterTest : public testing::Test {
 protected:
  void SetUp() override {
    auto cluster = Cluster::Create(Cluster::Options{.program = "cli/reprise", .failpoints = true});
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    cluster_ = *std::move(cluster);
    ASSERT_TRUE(cluster_->AddCoordinator().ok());
    for (const char* name : {"decode-0", "decode-1"}) {
      ASSERT_TRUE(cluster_
                      ->AddWorker(name, {"--timed", "--timed-layers=2", "--timed-row-bytes=8",
                                         "--block-tokens=16", "--timed-step-ms=2"})
                      .ok());
    }
    ASSERT_TRUE(cluster_->AddGateway("gateway-0").ok());
    const Status live = cluster_->WaitLive();
    ASSERT_TRUE(live.ok()) << live;
  }
  CheckedLoadOptions Load(int in_flight, int64_t requests) const {
    return {.gateways = cluster_->gateways(),
            .in_flight = in_flight,
            .requests = requests,
            .make = [](int64_t i) { return TimedRequest(Model(), i, 20, 50); }};
  }
  std::unique_ptr<Cluster> cluster_;
};

TEST_F(ClusterTest, ALoadIsCheckedTokenByToken) {
  CheckedLoad load(Load(8, 16));
  const Status done = load.Wait(kTimeoutNs);
  ASSERT_TRUE(done.ok()) << done;
  const LoadTotals totals = Sum(load.results());
  EXPECT_EQ(totals.streams, 16);
  EXPECT_EQ(totals.received, 16 * 50);
  EXPECT_EQ(totals.errors, 0) << totals.first_error;
  EXPECT_EQ(totals.lost + totals.duplicated + totals.different, 0);

  CheckedLoadOptions wrong = Load(1, 1);
  wrong.make = [](int64_t i) {
    CheckedRequest made = TimedRequest(Model(), i, 20, 50);
    ++made.expected[0][7].id;
    return made;
  };
  CheckedLoad checked(wrong);
  ASSERT_TRUE(checked.Wait(kTimeoutNs).ok());
  EXPECT_EQ(Sum(checked.results()).different, 1);
}

TEST_F(ClusterTest, ARestartedWorkerKeepsItsDoorAndChangesItsIncarnation) {
  const auto before = cluster_->Ref("decode-1");
  ASSERT_TRUE(before.ok()) << before.status();
  ASSERT_TRUE(cluster_->Kill("decode-1").ok());
  EXPECT_FALSE(cluster_->running("decode-1"));
  const Status restarted = cluster_->Restart("decode-1");
  ASSERT_TRUE(restarted.ok()) << restarted;
  EXPECT_EQ(cluster_->addresses("decode-1").grpc, before->grpc_address());
  // The coordinator may still tell of the old one for a report's time.
  StopSignal never;
  const TimeNs until = RealClock().NowNs() + kTimeoutNs;
  while (RealClock().NowNs() < until &&
         cluster_->Ref("decode-1")->incarnation() == before->incarnation()) {
    never.WaitFor(10 * kMillisecond);
  }
  EXPECT_NE(cluster_->Ref("decode-1")->incarnation(), before->incarnation());
}

TEST_F(ClusterTest, FailpointOrdersReachARunningProcess) {
  EXPECT_TRUE(cluster_->Hits("gateway-0").empty());
  const Status armed = cluster_->Arm("gateway-0", "gateway.place=count");
  ASSERT_TRUE(armed.ok()) << armed;
  EXPECT_TRUE(cluster_->Hits("gateway-0").contains("gateway.place"));
  EXPECT_TRUE(cluster_->Hits("coordinator").empty());
  // One that is not understood is answered too, and harms nobody.
  ASSERT_TRUE(cluster_->Arm("coordinator", "no.such.place=kill@1").ok());
  EXPECT_TRUE(cluster_->running("coordinator"));
}

}  // namespace
}  // namespace reprise::harness
