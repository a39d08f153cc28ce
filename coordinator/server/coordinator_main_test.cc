#include "coordinator/server/coordinator_main.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <cstring>
#include <future>
#include <memory>

#include "common/grpc_status.h"
#include "common/rpc_server.h"
#include "common/thread.h"
#include "coordinator/client/reporter.h"
#include "reprise/v1/cluster.grpc.pb.h"

namespace reprise::coordinator {
namespace {

using ::testing::HasSubstr;

// A coordinator on ports of its own, and what one needs to talk to it.
class CoordinatorMainTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::promise<RoleAddresses> ready;
    std::future<RoleAddresses> addresses = ready.get_future();
    thread_ = Thread("coordinator", [this, &ready] {
      result_ = RunCoordinator(
          {}, {.stop = &stop_, .ready = [&](const RoleAddresses& at) { ready.set_value(at); }});
    });
    addresses_ = addresses.get();
    stub_ = v1::Coordinator::NewStub(ClusterChannel(addresses_.grpc));
  }
  void TearDown() override {
    stop_.Stop();
    thread_.Join();
    EXPECT_TRUE(result_.ok()) << result_;
  }

  static v1::NodeInfo NodeOf(const std::string& name, v1::Role role, uint64_t incarnation) {
    v1::NodeInfo node;
    node.mutable_ref()->set_name(name);
    node.mutable_ref()->set_incarnation(incarnation);
    node.mutable_ref()->set_grpc_address("127.0.0.1:1");
    node.set_role(role);
    node.set_can_decode(role == v1::ROLE_WORKER);
    if (role != v1::ROLE_GATEWAY) {
      node.mutable_model()->set_name("demo");
      node.mutable_model()->set_fingerprint(std::string(32, 'f'));
      node.mutable_model()->set_numerics_class(std::string(32, 'n'));
      node.mutable_model()->set_format_digest(std::string(32, 'd'));
      node.mutable_model()->set_block_tokens(64);
      node.mutable_model()->set_context_tokens(1024);
    }
    return node;
  }
  StatusOr<v1::ReportResponse> Report(const v1::NodeInfo& node, uint64_t sequence) {
    v1::ReportRequest request;
    *request.mutable_node() = node;
    request.set_sequence(sequence);
    request.mutable_load()->set_blocks_total(100);
    request.mutable_load()->set_blocks_free(100);
    grpc::ClientContext context;
    v1::ReportResponse response;
    const Status status = FromGrpc(stub_->Report(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }
  StatusOr<v1::PlaceResponse> Place(const std::string& id) {
    v1::PlaceRequest request;
    request.set_request_id(id);
    request.set_format_digest(std::string(32, 'd'));
    request.set_prompt_tokens(100);
    request.set_max_tokens(20);
    request.set_branches(1);
    grpc::ClientContext context;
    v1::PlaceResponse response;
    const Status status = FromGrpc(stub_->Place(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }
  v1::ClusterStatus GetStatus() {
    grpc::ClientContext context;
    v1::ClusterStatus status;
    EXPECT_TRUE(stub_->GetStatus(&context, {}, &status).ok());
    return status;
  }

  StopSignal stop_;
  Status result_;
  RoleAddresses addresses_;
  std::unique_ptr<v1::Coordinator::Stub> stub_;
  Thread thread_;
};

TEST_F(CoordinatorMainTest, PlacesOnWhatReportsAndShowsIt) {
  const Status refused = Place("early").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("NO_WORKERS"));
  EXPECT_TRUE(RetryAfterMs(refused).has_value());

  const auto answer = Report(NodeOf("w", v1::ROLE_WORKER, 5), 1);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->next_event(), 1u);
  EXPECT_NE(answer->coordinator_incarnation(), 0u);
  EXPECT_EQ(answer->report_interval_ms(), CoordinatorOptions().idle_report_interval_ms);
  ASSERT_TRUE(Report(NodeOf("s", v1::ROLE_STORE, 6), 1).ok());

  const auto placed = Place("r");
  ASSERT_TRUE(placed.ok()) << placed.status();
  EXPECT_EQ(placed->decode().name(), "w");
  EXPECT_EQ(placed->decode().incarnation(), 5u);
  EXPECT_FALSE(placed->has_prefill());
  ASSERT_EQ(placed->stores_size(), 1);
  EXPECT_EQ(placed->stores(0).name(), "s");
  EXPECT_EQ(placed->attempt().n(), 1u);
  const Status again = Place("r").status();
  EXPECT_EQ(again.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(again.message()), HasSubstr("STALE_ATTEMPT"));

  const v1::ClusterStatus status = GetStatus();
  EXPECT_EQ(status.coordinator_incarnation(), answer->coordinator_incarnation());
  ASSERT_EQ(status.nodes_size(), 2);
  EXPECT_EQ(status.nodes(1).node().ref().name(), "w");
  EXPECT_EQ(status.nodes(1).state(), "live");
  EXPECT_EQ(status.placements(), 1);
  EXPECT_EQ(status.refusals(), 2);
}

TEST_F(CoordinatorMainTest, RefusesMalformedAndStaleReportsByName) {
  v1::NodeInfo bad = NodeOf("w", v1::ROLE_WORKER, 5);
  bad.mutable_ref()->set_incarnation(0);
  EXPECT_EQ(Report(bad, 1).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(Report(NodeOf("w", v1::ROLE_WORKER, 5), 1).ok());
  ASSERT_TRUE(Report(NodeOf("w", v1::ROLE_WORKER, 6), 1).ok());
  const Status stale = Report(NodeOf("w", v1::ROLE_WORKER, 5), 2).status();
  EXPECT_EQ(stale.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(stale.message()), HasSubstr("STALE_INCARNATION"));
}

TEST_F(CoordinatorMainTest, GivesTheModelItsWorkersServe) {
  v1::GetModelRequest request;
  v1::ModelInfo model;
  {
    grpc::ClientContext context;
    EXPECT_EQ(stub_->GetModel(&context, request, &model).error_code(),
              grpc::StatusCode::UNAVAILABLE);
  }
  ASSERT_TRUE(Report(NodeOf("w", v1::ROLE_WORKER, 5), 1).ok());
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->GetModel(&context, request, &model).ok());
    EXPECT_EQ(model.name(), "demo");
    EXPECT_EQ(model.format_digest(), std::string(32, 'd'));
  }
  request.set_name("other");
  grpc::ClientContext context;
  EXPECT_EQ(stub_->GetModel(&context, request, &model).error_code(), grpc::StatusCode::NOT_FOUND);
}

// The real reporter of a node against the real coordinator: more blocks than one report carries,
// more events than the window holds.
TEST_F(CoordinatorMainTest, LearnsAWholeNodeByEventsAndByASnapshot) {
  constexpr size_t kBlocks = 40'000;
  kv::EventLog log(/*window_events=*/100);
  for (size_t n = 0; n < kBlocks; ++n) {
    kv::BlockId id;
    std::memcpy(id.bytes.data(), &n, sizeof n);
    log.Added(id);
  }
  kv::EventReporter events(&log);
  std::promise<void> done;
  Reporter* self = nullptr;
  std::promise<void> made;
  std::shared_future<void> is_made = made.get_future().share();
  bool finished = false;
  Reporter reporter(
      {.coordinator = addresses_.grpc, .node = NodeOf("w", v1::ROLE_WORKER, 5)},
      [&](v1::ReportRequest* request) { FillKvPart(events.Prepare(), request); },
      [&](const v1::ReportResponse& response) {
        is_made.wait();
        events.OnAnswer(KvAnswer(response));
        if (events.behind()) {
          self->Wake();
        } else if (!finished) {
          finished = true;
          done.set_value();
        }
      });
  self = &reporter;
  made.set_value();
  done.get_future().wait();
  EXPECT_EQ(GetStatus().nodes(0).indexed_blocks(), static_cast<int64_t>(kBlocks));
  reporter.Stop();
  EXPECT_EQ(GetStatus().nodes(0).state(), "leaving");
}

TEST(CoordinatorOptions, AreRefusedByNameAndNothingListensBeyondLoopback) {
  StopSignal stop;
  stop.Stop();
  const Status beyond = RunCoordinator({.listen = "0.0.0.0:0"}, {.stop = &stop, .ready = nullptr});
  EXPECT_EQ(beyond.code(), absl::StatusCode::kPermissionDenied);
  const Status wrong = RunCoordinator({.suspect_after_ms = 900, .dead_after_ms = 800},
                                      {.stop = &stop, .ready = nullptr});
  EXPECT_THAT(std::string(wrong.message()), HasSubstr("dead_after_ms is 800, allowed are 900 to"));
  const Status alone = RunCoordinator({.peers = "127.0.0.1:1"}, {.stop = &stop, .ready = nullptr});
  EXPECT_THAT(std::string(alone.message()), HasSubstr("peers agree through etcd"));
  const Status spaced = RunCoordinator({.name = "a b"}, {.stop = &stop, .ready = nullptr});
  EXPECT_THAT(std::string(spaced.message()), HasSubstr("name is \"a b\""));
  const Status nowhere = RunCoordinator({.etcd = "nowhere"}, {.stop = &stop, .ready = nullptr});
  EXPECT_THAT(std::string(nowhere.message()), HasSubstr("etcd: "));
}

}  // namespace
}  // namespace reprise::coordinator
