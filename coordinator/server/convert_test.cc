#include "coordinator/server/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/limits.h"

namespace reprise::coordinator {
namespace {

using ::testing::HasSubstr;

v1::ReportRequest WorkerReport() {
  v1::ReportRequest message;
  v1::NodeInfo* node = message.mutable_node();
  node->mutable_ref()->set_name("w");
  node->mutable_ref()->set_incarnation(7);
  node->mutable_ref()->set_grpc_address("127.0.0.1:1");
  node->mutable_ref()->set_kv_address("127.0.0.1:2");
  node->set_role(v1::ROLE_WORKER);
  node->set_can_decode(true);
  v1::ModelInfo* model = node->mutable_model();
  model->set_name("demo");
  model->set_fingerprint(std::string(32, 'f'));
  model->set_numerics_class(std::string(32, 'n'));
  model->set_format_digest(std::string(32, 'd'));
  model->set_block_tokens(64);
  model->set_context_tokens(1024);
  message.set_sequence(1);
  return message;
}
// Four context ranks.
v1::GroupShape* Group(v1::ReportRequest& message) {
  v1::GroupShape* group = message.mutable_node()->mutable_group();
  group->set_pipeline(1);
  group->set_context(4);
  group->set_tensor(1);
  group->set_stripe_leaves(2);
  return group;
}
v1::PlaceRequest Query() {
  v1::PlaceRequest message;
  message.set_request_id("r");
  message.set_format_digest(std::string(32, 'd'));
  message.set_prompt_tokens(10);
  message.set_max_tokens(5);
  message.set_branches(1);
  return message;
}

struct BadReport {
  const char* what;
  void (*spoil)(v1::ReportRequest&);
};
class BadReportTest : public ::testing::TestWithParam<BadReport> {};
TEST_P(BadReportTest, IsRefusedByName) {
  v1::ReportRequest message = WorkerReport();
  ASSERT_TRUE(ParseReport(message).ok());
  GetParam().spoil(message);
  const Status status = ParseReport(message).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), ::testing::StartsWith("MALFORMED: "));
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().what));
}
INSTANTIATE_TEST_SUITE_P(
    All, BadReportTest,
    ::testing::Values(
        BadReport{"node name has 0 bytes",
                  [](auto& m) { m.mutable_node()->mutable_ref()->clear_name(); }},
        BadReport{
            "node name has 129 bytes, allowed are 1 to 128",
            [](auto& m) { m.mutable_node()->mutable_ref()->set_name(std::string(129, 'x')); }},
        BadReport{"incarnation",
                  [](auto& m) { m.mutable_node()->mutable_ref()->set_incarnation(0); }},
        BadReport{"role is 0", [](auto& m) { m.mutable_node()->clear_role(); }},
        BadReport{"format_digest has 31 bytes",
                  [](auto& m) {
                    m.mutable_node()->mutable_model()->set_format_digest(std::string(31, 'd'));
                  }},
        BadReport{"block_tokens is 0",
                  [](auto& m) { m.mutable_node()->mutable_model()->set_block_tokens(0); }},
        BadReport{"sequence", [](auto& m) { m.clear_sequence(); }},
        BadReport{"waiting is -1", [](auto& m) { m.mutable_load()->set_waiting(-1); }},
        BadReport{"blocks_free",
                  [](auto& m) {
                    m.mutable_load()->set_blocks_free(std::numeric_limits<int64_t>::max());
                  }},
        BadReport{"step_ms", [](auto& m) { m.mutable_load()->set_step_ms(std::nan("")); }},
        BadReport{"event id has 15 bytes",
                  [](auto& m) {
                    m.mutable_events()->set_first(1);
                    m.mutable_events()->add_events()->set_id(std::string(15, 'i'));
                  }},
        BadReport{"first event's number is 0", [](auto& m) { m.mutable_events()->add_events(); }},
        BadReport{"events is 4097",
                  [](auto& m) {
                    m.mutable_events()->set_first(1);
                    for (size_t i = 0; i <= limits::kReportEventsMax; ++i)
                      m.mutable_events()->add_events();
                  }},
        BadReport{"snapshot ids",
                  [](auto& m) { m.mutable_snapshot()->set_ids(std::string(17, 'i')); }},
        BadReport{"snapshot ids",
                  [](auto& m) {
                    m.mutable_snapshot()->set_ids(
                        std::string(16 * (limits::kSnapshotChunkBlocks + 1), 'i'));
                  }},
        BadReport{"leader_epoch is 4294967295, the limit is 4294967294",
                  [](auto& m) { m.set_leader_epoch(4294967295); }},
        BadReport{"probe_age_ms is -2", [](auto& m) { m.mutable_load()->set_probe_age_ms(-2); }},
        BadReport{"stranded_bytes is -1",
                  [](auto& m) { m.mutable_load()->set_stranded_bytes(-1); }},
        BadReport{"unreachable node name has 0 bytes",
                  [](auto& m) { m.mutable_load()->add_unreachable(""); }},
        BadReport{"unreachable is 1025, allowed are 0 to 1024",
                  [](auto& m) {
                    for (int i = 0; i < 1025; ++i) m.mutable_load()->add_unreachable("w");
                  }},
        BadReport{"handle_digest has 31 bytes, allowed are 32 to 32",
                  [](auto& m) {
                    m.add_requests()->set_request_id("r");
                    m.mutable_requests(0)->set_handle_digest(std::string(31, 'h'));
                  }},
        BadReport{"a group of 1 x 0 x 1 ranks, the limit is 1 to 64",
                  [](auto& m) { Group(m)->set_context(0); }},
        BadReport{"a group of 1 x 65 x 1 ranks", [](auto& m) { Group(m)->set_context(65); }},
        BadReport{"a group of 4 x 4 x 8 ranks",
                  [](auto& m) {
                    Group(m)->set_pipeline(4);
                    m.mutable_node()->mutable_group()->set_tensor(8);
                  }},
        BadReport{"stripe_leaves is 0, allowed are 1 to 2048",
                  [](auto& m) { Group(m)->set_stripe_leaves(0); }},
        BadReport{"stripe_leaves is 2049", [](auto& m) { Group(m)->set_stripe_leaves(2049); }},
        BadReport{"a store reports a group",
                  [](auto& m) {
                    Group(m);
                    m.mutable_node()->set_role(v1::ROLE_STORE);
                  }},
        BadReport{"request_id has 65 bytes",
                  [](auto& m) { m.add_requests()->set_request_id(std::string(65, 'r')); }}));

struct BadQuery {
  const char* what;
  void (*spoil)(v1::PlaceRequest&);
};
class BadQueryTest : public ::testing::TestWithParam<BadQuery> {};
TEST_P(BadQueryTest, IsRefusedByName) {
  v1::PlaceRequest message = Query();
  ASSERT_TRUE(ParsePlaceQuery(message).ok());
  GetParam().spoil(message);
  const Status status = ParsePlaceQuery(message).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().what));
}
INSTANTIATE_TEST_SUITE_P(
    All, BadQueryTest,
    ::testing::Values(
        BadQuery{"request_id has 0 bytes", [](auto& m) { m.clear_request_id(); }},
        BadQuery{"format_digest has 0 bytes", [](auto& m) { m.clear_format_digest(); }},
        BadQuery{"block_ids", [](auto& m) { m.set_block_ids("short"); }},
        BadQuery{"prompt_tokens is 0", [](auto& m) { m.set_prompt_tokens(0); }},
        BadQuery{"emitted_tokens is -1", [](auto& m) { m.set_emitted_tokens(-1); }},
        BadQuery{"max_tokens is 0", [](auto& m) { m.set_max_tokens(0); }},
        BadQuery{"branches is 9, allowed are 1 to 8", [](auto& m) { m.set_branches(9); }},
        BadQuery{"leg is 1", [](auto& m) { m.set_leg(1); }},
        BadQuery{"handle_digest has 16 bytes",
                 [](auto& m) { m.set_handle_digest(std::string(16, 'h')); }},
        BadQuery{"an attach has no handle_digest", [](auto& m) { m.set_attach(true); }},
        BadQuery{"replica_stores is 9, allowed are -1 to 8",
                 [](auto& m) { m.set_replica_stores(9); }},
        BadQuery{"replicas is 17",
                 [](auto& m) {
                   for (int i = 0; i < 17; ++i) m.add_replicas()->set_name("s");
                 }},
        BadQuery{"prompt_tokens is 0, allowed are 1",
                 [](auto& m) {
                   m.set_handle_digest(std::string(32, 'h'));
                   m.clear_prompt_tokens();
                 }},
        BadQuery{"node name", [](auto& m) { m.add_avoid()->set_incarnation(1); }}));

TEST(Convert, AGatewayNeedsNoModel) {
  v1::ReportRequest message = WorkerReport();
  message.mutable_node()->set_role(v1::ROLE_GATEWAY);
  message.mutable_node()->clear_model();
  EXPECT_TRUE(ParseReport(message).ok());
  message.mutable_node()->set_role(v1::ROLE_STORE);
  EXPECT_FALSE(ParseReport(message).ok());
}

TEST(Convert, AWorkersGroupIsCarriedAndOneProcessHasNone) {
  v1::ReportRequest message = WorkerReport();
  EXPECT_EQ(ParseReport(message)->node.group.ranks(), 1u);
  Group(message)->set_tensor(2);
  const auto report = ParseReport(message);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->node.group, (kv::GroupSplit{.tensor = 2, .context = 4, .stripe_leaves = 2}));
  v1::NodeStatus status;
  Fill(NodeSummary{.node = {.role = Role::kWorker}}, &status);
  EXPECT_FALSE(status.node().has_group());
}

TEST(Convert, WhatANodeSaysOfItselfComesBackInStatus) {
  v1::ReportRequest message = WorkerReport();
  message.mutable_load()->set_running(3);
  message.mutable_load()->set_blocks_cached(9);
  message.mutable_load()->set_step_ms(1.5);
  message.mutable_load()->set_probe_age_ms(400);
  message.mutable_load()->add_unreachable("other");
  message.mutable_load()->set_stranded_bytes(7);
  Group(message)->set_pipeline(3);
  CoordinatorCore core(CoreOptions{}, 0);
  ASSERT_TRUE(core.OnReport(*ParseReport(message), 0).ok());
  v1::NodeStatus status;
  Fill(core.Nodes(0).at(0), &status);
  EXPECT_EQ(status.node().SerializeAsString(), message.node().SerializeAsString());
  EXPECT_EQ(status.load().SerializeAsString(), message.load().SerializeAsString());
  EXPECT_EQ(status.state(), "live");
}

TEST(Convert, AnAttachByTheHandleAloneNeedsNothingElse) {
  v1::PlaceRequest message;
  message.set_request_id("r");
  message.set_attach(true);
  message.set_handle_digest(std::string(32, 'h'));
  const auto query = ParsePlaceQuery(message);
  ASSERT_TRUE(query.ok()) << query.status();
  EXPECT_TRUE(query->attach);
  EXPECT_EQ(query->prompt_tokens, 0);
}

TEST(Convert, AnswersCarryListsOnlyWhenTheyAreNews) {
  v1::ReportResponse message;
  Fill(ReportAnswer{.leader_epoch = 3, .standby = true}, &message);
  EXPECT_EQ(message.stores_version(), 0u);
  EXPECT_EQ(message.verdicts_version(), 0u);
  EXPECT_TRUE(message.standby());
  EXPECT_FALSE(message.has_roles());
  ReportAnswer answer{.drain = true, .drain_deadline_ms = 5, .roles = RoleOrder{.decode = false}};
  answer.stores = VersionedList<StoreInfo>{.version = 8, .items = {{{{"s", 1}, "g", "k"}, "rack"}}};
  answer.verdicts = VersionedList<Verdict>{.version = 9, .items = {{{"w", 2}, "stuck"}}};
  message.Clear();
  Fill(answer, &message);
  EXPECT_EQ(message.stores_version(), 8u);
  EXPECT_EQ(message.stores(0).ref().kv_address(), "k");
  EXPECT_EQ(message.stores(0).failure_domain(), "rack");
  EXPECT_EQ(message.verdicts_version(), 9u);
  EXPECT_EQ(message.verdicts(0).node().incarnation(), 2u);
  EXPECT_EQ(message.verdicts(0).reason(), "stuck");
  EXPECT_TRUE(message.drain());
  EXPECT_EQ(message.drain_deadline_ms(), 5);
  EXPECT_TRUE(message.roles().prefill());
  EXPECT_FALSE(message.roles().decode());
}

TEST(Convert, AnAnsweredAttachNamesTheWorkerAndNothingElse) {
  Placement placement{.attempt = {5, 1}, .running = NodeRef{{"w", 2}, "g", "k"}, .leader_epoch = 4};
  v1::PlaceResponse message;
  Fill(placement, &message);
  EXPECT_EQ(message.running().name(), "w");
  EXPECT_EQ(message.leader_epoch(), 4u);
  EXPECT_EQ(message.attempt().owner_epoch(), 5u);
  EXPECT_FALSE(message.has_decode());
}

}  // namespace
}  // namespace reprise::coordinator
