#include "coordinator/server/coordinator_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/grpc_status.h"
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

TEST_F(CoordinatorServiceTest, DrainIsRefusedByNameAndShown) {
  const auto drain = [&](const std::string& name, int64_t deadline_ms) {
    grpc::ClientContext context;
    v1::DrainRequest request;
    request.set_name(name);
    request.set_deadline_ms(deadline_ms);
    v1::DrainResponse response;
    return FromGrpc(stub_->Drain(&context, request, &response));
  };
  EXPECT_EQ(drain("g", 0).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(drain("", 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(drain("g", -1).code(), absl::StatusCode::kInvalidArgument);
  ReportGateway(1);
  EXPECT_TRUE(drain("g", 0).ok());
  EXPECT_EQ(StatusOfNode().state(), "leaving");
  EXPECT_EQ(StatusOfNode().reason(), "draining");
}

TEST_F(CoordinatorServiceTest, AloneItLeadsAndNobodyMayTellItOtherwise) {
  grpc::ClientContext context, other;
  v1::ClusterStatus status;
  ASSERT_TRUE(stub_->GetStatus(&context, {}, &status).ok());
  EXPECT_EQ(status.leader(), "coordinator");
  EXPECT_EQ(status.leader_epoch(), 0u);
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("reprise_coordinator_leader 1"));
  v1::LeadRequest request;
  request.set_epoch(9);
  request.set_name("x");
  request.set_grpc_address("127.0.0.1:1");
  v1::LeadResponse response;
  EXPECT_EQ(stub_->Lead(&other, request, &response).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
}

// One of a group whose etcd is away: it never leads, and hears who does.
class StandbyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto door = RpcServer::Start("127.0.0.1:0", {&service_});
    ASSERT_TRUE(door.ok()) << door.status();
    door_ = *std::move(door);
    stub_ = v1::Coordinator::NewStub(ClusterChannel(door_->address()));
  }
  void TearDown() override { service_.StopLeading(); }

  void Join() {
    service_.Join({.core = {.name = "me", .address = door_->address()},
                   .etcd = {.endpoints = {"127.0.0.1:1"}, .key = "k"},
                   .peers = {}});
  }
  StatusOr<uint64_t> Lead(uint64_t epoch) {
    grpc::ClientContext context;
    v1::LeadRequest request;
    request.set_epoch(epoch);
    request.set_name("other");
    request.set_grpc_address("127.0.0.1:7");
    v1::LeadResponse response;
    RETURN_IF_ERROR(FromGrpc(stub_->Lead(&context, request, &response)));
    return response.epoch();
  }
  Status Place() {
    grpc::ClientContext context;
    v1::PlaceRequest request;
    request.set_request_id("r");
    v1::PlaceResponse response;
    return FromGrpc(stub_->Place(&context, request, &response));
  }
  v1::ReportResponse Report(uint64_t leader_epoch) {
    grpc::ClientContext context;
    v1::ReportRequest request;
    request.mutable_node()->mutable_ref()->set_name("g");
    request.mutable_node()->mutable_ref()->set_incarnation(1);
    request.mutable_node()->set_role(v1::ROLE_GATEWAY);
    request.set_sequence(++sequence_);
    request.set_leader_epoch(leader_epoch);
    v1::ReportResponse response;
    EXPECT_TRUE(stub_->Report(&context, request, &response).ok());
    return response;
  }

  static CoreOptions Standby() {
    CoreOptions options;
    options.standby = true;
    return options;
  }
  uint64_t sequence_ = 0;
  MetricsRegistry metrics_;
  CoordinatorService service_{Standby(), RealClock(), &metrics_, "me"};
  std::unique_ptr<RpcServer> door_;
  std::unique_ptr<v1::Coordinator::Stub> stub_;
};

TEST_F(StandbyTest, TakesReportsAndSendsOrdersToTheLeader) {
  EXPECT_EQ(Place().message(), "not the leader: me has not joined its group yet");
  Join();
  EXPECT_EQ(Place().message(), "not the leader: nobody is known to lead, epoch 0");
  EXPECT_EQ(*Lead(4), 4u);
  const Status refused = Place();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(refused.message(), "not the leader: other at 127.0.0.1:7, epoch 4");
  EXPECT_TRUE(RetryAfterMs(refused).has_value());
  const v1::ReportResponse warm = Report(4);
  EXPECT_TRUE(warm.standby());
  EXPECT_EQ(warm.leader_epoch(), 4u);
  EXPECT_EQ(warm.verdicts_version(), 0u);
  grpc::ClientContext context;
  v1::ClusterStatus status;
  ASSERT_TRUE(stub_->GetStatus(&context, {}, &status).ok());
  EXPECT_EQ(status.leader(), "other");
  EXPECT_EQ(status.leader_epoch(), 4u);
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("reprise_coordinator_leader 0"));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("reprise_leader_epoch 4"));
}

TEST_F(StandbyTest, LearnsOfHigherEpochsFromNodesAndRefusesLowerBeats) {
  Join();
  EXPECT_EQ(*Lead(4), 4u);
  Report(6);
  EXPECT_EQ(*Lead(4), 6u);
  EXPECT_EQ(Place().message(), "not the leader: nobody is known to lead, epoch 6");
  EXPECT_EQ(Lead(0).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace reprise::coordinator
