// Our client and gateways that go away: what its caller sees is one stream.
#include "gateway/server/gateway_fixture.h"

namespace reprise::gateway {
namespace {

using ::testing::HasSubstr;

class GatewayClientsTest : public GatewayTest {
 protected:
  void StartTwo() {
    StartGateway();
    other_ = Another();
    resuming_ = std::make_unique<GenerationClient>(
        client::ClientOptions{.address = absl::StrCat(address_, ",", other_->address())});
  }
  void TearDown() override {
    resuming_.reset();
    other_.reset();
    GatewayTest::TearDown();
  }

  std::unique_ptr<RunningGateway> other_;
  std::unique_ptr<GenerationClient> resuming_;
};

TEST_F(GatewayClientsTest, AStreamGoesOnAtTheOtherGateway) {
  a_.FallSilentAfter(5);
  StartTwo();
  v1::GenerateRequest request = Request(12);
  request.mutable_sampling()->set_n(2);
  Reading reading(*resuming_, request);
  reading.WaitForTokens(5);
  a_.FallSilentAfter(INT32_MAX);
  coordinator_.SetRunning(a_.ref());
  StopGateway();
  ASSERT_TRUE(reading.Wait().ok());
  EXPECT_TRUE(reading.broken().ok()) << reading.broken();
  EXPECT_EQ(reading.completion().finished.code(), 0);
  EXPECT_EQ(reading.completion().branches[0].ids, Truth(5, 0, 12));
  EXPECT_EQ(reading.completion().branches[1].ids, Truth(5, 1, 12));
  EXPECT_EQ(a_.WaitForAttach(1).request_id(), reading.completion().accepted.request_id());
  EXPECT_EQ(a_.submits(), 1u);
}

TEST_F(GatewayClientsTest, GatewayAndWorkerGoTogetherAndTheTranscriptGoesOn) {
  a_.FallSilentAfter(5);
  StartTwo();
  Reading reading(*resuming_, Request(12));
  reading.WaitForTokens(5);
  coordinator_.SetWorkers({b_.ref()});
  StopGateway();
  a_.Break();
  ASSERT_TRUE(reading.Wait().ok());
  EXPECT_TRUE(reading.broken().ok()) << reading.broken();
  EXPECT_EQ(reading.completion().branches[0].ids, Truth(5, 0, 12));
  EXPECT_EQ(b_.WaitForSubmit(1).branches(0).emitted_size(), 5);
}

TEST_F(GatewayClientsTest, AGatewayThatIsNotThereIsPassedOver) {
  StartTwo();
  StopGateway();
  for (int i = 0; i < 3; ++i) {
    const auto result = resuming_->Generate(Request(4));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->branches[0].ids, Truth(5, 0, 4));
  }
  EXPECT_TRUE(resuming_->ListModels().ok());
}

TEST_F(GatewayClientsTest, TriesAreBoundedAndTheLastReasonIsTold) {
  a_.FallSilentAfter(2);
  StartGateway();
  GenerationClient client({.address = address_, .resume_tries = 3, .resume_backoff_max_ms = 50});
  Reading reading(client, Request(8));
  reading.WaitForTokens(2);
  StopGateway();
  const Status status = reading.Wait();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("not resumed in 3 tries (limit 3)"));
}

TEST_F(GatewayClientsTest, TimeIsBoundedWhereAGatewayFindsNobody) {
  a_.FallSilentAfter(2);
  StartTwo();
  GenerationClient client(
      {.address = absl::StrCat(address_, ",", other_->address()), .resume_timeout_ms = 300});
  Reading reading(client, Request(8));
  reading.WaitForTokens(2);
  coordinator_.RefuseWith(grpc::Status(grpc::StatusCode::UNAVAILABLE, "NO_WORKERS: none"));
  StopGateway();
  const Status status = reading.Wait();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("(limit 300)"));
}

TEST_F(GatewayClientsTest, AStreamAbandonedBetweenTwoTriesEnds) {
  a_.FallSilentAfter(2);
  StartGateway();
  GenerationClient client({.address = address_,
                           .resume_timeout_ms = 600'000,
                           .resume_backoff_first_ms = 60'000,
                           .resume_backoff_max_ms = 60'000});
  Reading reading(client, Request(8));
  reading.WaitForTokens(2);
  StopGateway();
  reading.Abandon();
  EXPECT_EQ(reading.Wait().code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace reprise::gateway
