// A gateway and a group of coordinators: who leads is found out, and who leads no more is refused.
#include "common/grpc_status.h"
#include "gateway/server/gateway_fixture.h"

namespace reprise::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class GatewayCoordinatorsTest : public GatewayTest {
 protected:
  void StartWithBoth() {
    coordinator_.SetWorkers({a_.ref(), b_.ref()});
    second_.SetWorkers({a_.ref(), b_.ref()});
    options_.coordinator = absl::StrCat(coordinator_.address(), ",", second_.address());
    gateway_ = std::make_unique<RunningGateway>(options_);
    client_ = &gateway_->client();
  }
  static grpc::Status NotTheLeader(const std::string& at) {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "not the leader: coordinator-1 at " + at);
  }

  FakeCoordinator second_;
};

TEST_F(GatewayCoordinatorsTest, AFollowerIsNotAskedTwice) {
  StartWithBoth();
  coordinator_.RefuseWith(NotTheLeader(second_.address()));
  for (int i = 0; i < 3; ++i) {
    const auto result = client_->Generate(Request(2));
    ASSERT_TRUE(result.ok()) << result.status();
  }
  EXPECT_THAT(coordinator_.places(), SizeIs(1));
  EXPECT_THAT(second_.places(), SizeIs(3));
}

TEST_F(GatewayCoordinatorsTest, AnElectionIsWaitedFor) {
  StartWithBoth();
  coordinator_.RefuseWith(NotTheLeader("nowhere"));
  second_.RefuseWith(NotTheLeader("nowhere"));
  Reading reading(*client_, Request(2));
  while (second_.places().size() < 3) second_.WaitForReports(1);
  second_.RefuseWith(grpc::Status::OK);
  ASSERT_TRUE(reading.Wait().ok());
  EXPECT_EQ(reading.completion().finished.code(), 0);
}

TEST_F(GatewayCoordinatorsTest, ADeadLeaderIsFollowedByTheNext) {
  StartWithBoth();
  ASSERT_TRUE(client_->Generate(Request(2)).ok());
  coordinator_.Kill();
  const auto result = client_->Generate(Request(2));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(second_.places(), SizeIs(1));
}

TEST_F(GatewayCoordinatorsTest, WithAllOfThemAwayTheRefusalIsNamed) {
  options_.place_timeout_ms = 300;
  StartWithBoth();
  coordinator_.Kill();
  second_.Kill();
  const auto result = client_->Generate(Request(2));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("coordinator unreachable"));
  EXPECT_TRUE(RetryAfterMs(result.status()).has_value());
}

TEST_F(GatewayCoordinatorsTest, AnAnswerOfALeaderThatLeadsNoMoreIsRefused) {
  StartWithBoth();
  second_.SetLeaderEpoch(7);
  second_.WaitForReports(2);  // the first of them is answered with the epoch
  coordinator_.SetLeaderEpoch(6);
  const auto result = client_->Generate(Request(2));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(coordinator_.places(), SizeIs(1)) << "asked, and not believed";
  EXPECT_THAT(second_.places(), SizeIs(1));
  EXPECT_EQ(a_.submits(), 1u);
  EXPECT_EQ(a_.WaitForSubmit(1).leader_epoch(), 7u);
}

TEST_F(GatewayCoordinatorsTest, AVerdictOfAnOldLeaderFailsNobody) {
  a_.FallSilentAfter(3);
  StartWithBoth();
  Reading reading(*client_, Request(8));
  reading.WaitForTokens(3);
  second_.SetLeaderEpoch(7);
  second_.WaitForReports(2);
  coordinator_.SetLeaderEpoch(6);
  coordinator_.AddVerdict(a_.ref(), "silent");
  coordinator_.WaitForReports(3);
  EXPECT_EQ(b_.submits(), 0u);
  second_.AddVerdict(a_.ref(), "silent");
  ASSERT_TRUE(reading.Wait().ok());
  EXPECT_EQ(reading.completion().branches[0].ids, Truth(5, 0, 8));
  EXPECT_EQ(b_.submits(), 1u);
}

}  // namespace
}  // namespace reprise::gateway
