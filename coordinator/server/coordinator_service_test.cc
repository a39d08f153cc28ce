#include "coordinator/server/coordinator_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/rpc_server.h"

namespace reprise::coordinator {
namespace {

using ::testing::HasSubstr;

// The service under a clock that moves only when told.
class CoordinatorServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto door = RpcServer::Start("127.0.0.1:0", {&service_});
    ASSERT_TRUE(door.ok()) << door.status();
    door_ = *std::move(door);
    stub_ = v1::Coordinator::NewStub(ClusterChannel(door_->address()));
  }
  void ReportGateway(uint64_t sequence) {
    v1::ReportRequest request;
    v1::NodeInfo* node = request.mutable_node();
    node->mutable_ref()->set_name("g");
    node->mutable_ref()->set_incarnation(1);
    node->set_role(v1::ROLE_GATEWAY);
    request.set_sequence(sequence);
    grpc::ClientContext context;
    v1::ReportResponse response;
    ASSERT_TRUE(stub_->Report(&context, request, &response).ok());
  }
  v1::NodeStatus StatusOfNode() {
    grpc::ClientContext context;
    v1::ClusterStatus status;
    EXPECT_TRUE(stub_->GetStatus(&context, {}, &status).ok());
    return status.nodes_size() == 1 ? status.nodes(0) : v1::NodeStatus();
  }
  void RunFor(int64_t ms) {
    for (int64_t t = 0; t < ms; t += 50) {
      clock_.Advance(50 * kMillisecond);
      service_.Tick();
    }
  }

  ManualClock clock_{kSecond};
  MetricsRegistry metrics_;
  CoordinatorService service_{CoreOptions{}, clock_, &metrics_};
  std::unique_ptr<RpcServer> door_;
  std::unique_ptr<v1::Coordinator::Stub> stub_;
};

TEST_F(CoordinatorServiceTest, ASilentNodeDiesInOneSecondOfTicksAndLateTicksAreForgiven) {
  ReportGateway(1);
  service_.Tick();
  clock_.Advance(30 * kSecond);
  service_.Tick();
  EXPECT_EQ(StatusOfNode().state(), "live");
  RunFor(650);
  EXPECT_EQ(StatusOfNode().state(), "suspect");
  EXPECT_EQ(StatusOfNode().reason(), "silent");
  RunFor(400);
  EXPECT_EQ(StatusOfNode().state(), "dead");
  const std::string text = metrics_.Serialize();
  EXPECT_THAT(text, HasSubstr("reprise_coordinator_nodes{role=\"gateway\",state=\"dead\"} 1"));
  EXPECT_THAT(text, HasSubstr("reprise_coordinator_late_seconds_total 29.95"));
}

TEST_F(CoordinatorServiceTest, MetricsCountRefusalsByName) {
  v1::PlaceRequest request;
  request.set_request_id("r");
  request.set_format_digest(std::string(32, 'd'));
  request.set_prompt_tokens(1);
  request.set_max_tokens(1);
  request.set_branches(1);
  grpc::ClientContext context;
  v1::PlaceResponse response;
  EXPECT_FALSE(stub_->Place(&context, request, &response).ok());
  const std::string text = metrics_.Serialize();
  EXPECT_THAT(text, HasSubstr("reprise_coordinator_refusals_total{name=\"NO_WORKERS\"} 1"));
  EXPECT_THAT(text, HasSubstr("reprise_coordinator_refusals_total{name=\"NO_ROOM\"} 0"));
  EXPECT_THAT(text, HasSubstr("reprise_coordinator_decision_seconds_count 1"));
}

}  // namespace
}  // namespace reprise::coordinator
