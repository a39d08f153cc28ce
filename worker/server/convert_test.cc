#include "worker/server/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "common/limits.h"

namespace reprise::worker {
namespace {

constexpr TimeNs kNow = 5 * kSecond;

v1::Submit Valid() {
  v1::Submit message;
  message.set_request_id("r-1.a_B");
  message.mutable_attempt()->set_owner_epoch(3);
  message.mutable_attempt()->set_n(2);
  for (const int32_t token : {5, 6, 7}) message.add_prompt(token);
  v1::ResolvedSampling* sampling = message.mutable_sampling();
  sampling->set_temperature(1);
  sampling->set_top_p(1);
  sampling->set_repetition_penalty(1);
  sampling->set_seed(9);
  sampling->set_max_tokens(4);
  sampling->set_n(2);
  sampling->add_stop_ids(1);
  v1::BranchTokens* branch = message.add_branches();
  branch->set_branch(1);
  branch->add_emitted(8);
  message.mutable_prefill()->set_name("p");
  message.mutable_prefill()->set_incarnation(77);
  v1::PrefixSource* source = message.add_sources();
  *source->mutable_node() = message.prefill();
  source->set_blocks(3);
  *message.add_stores() = message.prefill();
  message.set_deadline_ms(250);
  message.set_tenant("t");
  return message;
}

TEST(Convert, AValidSubmitArrivesWhole) {
  const StatusOr<Submit> submit = ParseSubmit(Valid(), kNow);
  ASSERT_TRUE(submit.ok()) << submit.status();
  EXPECT_EQ(submit->key, (RequestKey{"r-1.a_B", {3, 2}}));
  EXPECT_THAT(submit->prompt, testing::ElementsAre(5, 6, 7));
  EXPECT_EQ(submit->sampling.seed, 9u);
  EXPECT_EQ(submit->sampling.n, 2);
  ASSERT_EQ(submit->branches.size(), 2u);
  EXPECT_TRUE(submit->branches[0].emitted.empty());
  EXPECT_THAT(submit->branches[1].emitted, testing::ElementsAre(8));
  EXPECT_EQ(submit->prefill->key, (NodeKey{"p", 77}));
  EXPECT_EQ(submit->sources.front().blocks, 3);
  EXPECT_EQ(submit->stores.size(), 1u);
  EXPECT_EQ(submit->deadline_ns, kNow + 250 * kMillisecond);
  EXPECT_EQ(submit->tenant, "t");
}

TEST(Convert, EveryFieldOutOfRangeIsRefusedByName) {
  struct Case {
    std::string named;
    std::function<void(v1::Submit&)> spoil;
  };
  const std::vector<Case> cases = {
      {"request_id", [](v1::Submit& m) { m.set_request_id(""); }},
      {"request_id", [](v1::Submit& m) { m.set_request_id(std::string(65, 'a')); }},
      {"request_id", [](v1::Submit& m) { m.set_request_id("a/b"); }},
      {"prompt", [](v1::Submit& m) { m.clear_prompt(); }},
      {"temperature", [](v1::Submit& m) { m.mutable_sampling()->set_temperature(-1); }},
      {"temperature", [](v1::Submit& m) { m.mutable_sampling()->set_temperature(std::nanf("")); }},
      {"top_k", [](v1::Submit& m) { m.mutable_sampling()->set_top_k(-1); }},
      {"top_p", [](v1::Submit& m) { m.mutable_sampling()->set_top_p(1.5F); }},
      {"min_p", [](v1::Submit& m) { m.mutable_sampling()->set_min_p(INFINITY); }},
      {"presence_penalty", [](v1::Submit& m) { m.mutable_sampling()->set_presence_penalty(1e9F); }},
      {"logit_bias.bias",
       [](v1::Submit& m) { m.mutable_sampling()->add_logit_bias()->set_bias(1000); }},
      {"stop_ids",
       [](v1::Submit& m) {
         for (int i = 0; i <= limits::kStopIdsMax; ++i) m.mutable_sampling()->add_stop_ids(i);
       }},
      {"max_tokens", [](v1::Submit& m) { m.mutable_sampling()->set_max_tokens(0); }},
      {"top_logprobs", [](v1::Submit& m) { m.mutable_sampling()->set_top_logprobs(21); }},
      {"n is 9", [](v1::Submit& m) { m.mutable_sampling()->set_n(9); }},
      {"branches.branch", [](v1::Submit& m) { m.add_branches()->set_branch(2); }},
      {"branch 1 is given twice", [](v1::Submit& m) { m.add_branches()->set_branch(1); }},
      {"branch 0 has 2 logprobs for 1",
       [](v1::Submit& m) {
         m.clear_branches();
         m.add_branches()->add_emitted(1);
         for (int i = 0; i < 2; ++i) m.mutable_branches(0)->add_logprobs(-1);
       }},
      {"source.first_block", [](v1::Submit& m) { m.mutable_sources(0)->set_first_block(-1); }},
      {"node p has no incarnation", [](v1::Submit& m) { m.mutable_prefill()->set_incarnation(0); }},
      {"node name", [](v1::Submit& m) { m.mutable_stores(0)->set_name(""); }},
      {"deadline_ms", [](v1::Submit& m) { m.set_deadline_ms(-1); }},
      {"tenant", [](v1::Submit& m) { m.set_tenant(std::string(1000, 'x')); }},
  };
  for (const Case& bad : cases) {
    SCOPED_TRACE(bad.named);
    v1::Submit message = Valid();
    bad.spoil(message);
    const Status status = ParseSubmit(message, kNow).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(bad.named));
  }
}

TEST(Convert, APrefillLegSurvivesTheRoundTrip) {
  CallPrefill call;
  call.node = {{"p", 77}, "127.0.0.1:1", "127.0.0.1:2"};
  const StatusOr<Submit> submit = ParseSubmit(Valid(), kNow);
  ASSERT_TRUE(submit.ok());
  call.leg = {submit->key,         1,
              submit->prompt,      submit->sampling,
              submit->sources,     submit->stores,
              submit->deadline_ns, submit->tenant};
  v1::PrefillRequest message;
  Fill(call, kNow + 50 * kMillisecond, &message);
  EXPECT_EQ(message.worker_incarnation(), 77u);
  EXPECT_EQ(message.deadline_ms(), 200);
  const StatusOr<SubmitPrefill> leg = ParsePrefill(message, 0);
  ASSERT_TRUE(leg.ok()) << leg.status();
  EXPECT_EQ(leg->key, call.leg.key);
  EXPECT_EQ(leg->leg, 1u);
  EXPECT_EQ(leg->prompt, call.leg.prompt);
  EXPECT_EQ(leg->sampling.stop_ids, call.leg.sampling.stop_ids);
  EXPECT_EQ(leg->sources.front().node, call.leg.sources.front().node);
  EXPECT_EQ(leg->tenant, "t");
}

TEST(Convert, AnAnswerForAnotherNumberOfBranchesIsRefused) {
  ReplyPrefill reply;
  reply.first.resize(2);
  reply.first[1].id = 4;
  reply.first[1].top = {{4, -0.5F}};
  v1::PrefillResponse message;
  Fill(reply, &message);
  const StatusOr<PrefillReply> parsed = ParsePrefillResponse(message, 2);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->first[1].id, 4);
  EXPECT_EQ(parsed->first[1].top, reply.first[1].top);
  EXPECT_FALSE(ParsePrefillResponse(message, 3).ok());
  message.mutable_first(0)->set_branch(1);
  EXPECT_FALSE(ParsePrefillResponse(message, 2).ok());
}

TEST(Convert, AnEventCarriesTokensEndsAndDone) {
  Emit emit;
  emit.key = {"r", {1, 4}};
  emit.tokens.push_back({1, 7, {42, -1.5F, {{42, -1.5F}}}});
  emit.ended.push_back({1, EndReason::kStop});
  emit.done = Done{absl::CancelledError("why"), 12};
  v1::RequestEvent event;
  Fill(emit, 0, &event);
  EXPECT_EQ(event.attempt().n(), 4u);
  EXPECT_EQ(event.tokens(0).index(), 7u);
  EXPECT_EQ(event.tokens(0).id(), 42);
  EXPECT_EQ(event.ended(0).reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(event.done().code(), 1);
  EXPECT_EQ(event.done().message(), "why");
  EXPECT_EQ(event.done().cached_tokens(), 12);
}

TEST(Convert, AnAttachedEventCarriesWhatAGatewayNeedsToGoOn) {
  Emit emit;
  emit.key = {"r", {2, 1}};
  emit.attached = Attached{{4, 5}, {}, 3 * kSecond, 12 * kSecond, {{{"s", 3}, "g", "k"}}};
  emit.attached->sampling.seed = 77;
  emit.stores = std::vector<NodeRef>{{{"t", 4}, "", ""}};
  v1::RequestEvent event;
  Fill(emit, 10 * kSecond, &event);
  EXPECT_EQ(event.attached().prompt(1), 5);
  EXPECT_EQ(event.attached().sampling().seed(), 77u);
  EXPECT_EQ(event.attached().resume_window_ms(), 3'000);
  EXPECT_EQ(event.attached().deadline_ms(), 2'000);
  EXPECT_EQ(event.attached().stores(0).name(), "s");
  EXPECT_EQ(event.stores(0).incarnation(), 4u);
}

TEST(Convert, AHandleIsSixteenBytesAndAWindowNeedsOne) {
  v1::Attach attach;
  attach.set_request_id("r");
  attach.set_resume_handle("short");
  EXPECT_THAT(std::string(ParseAttach(attach).status().message()),
              testing::HasSubstr("resume_handle has 5 bytes, 16 are needed"));
  attach.set_resume_handle(std::string(16, 'x'));
  EXPECT_EQ(ParseAttach(attach)->resume_handle, std::string(16, 'x'));

  v1::Submit submit = Valid();
  submit.set_resume_window_ms(5);
  EXPECT_EQ(ParseSubmit(submit, 0)->resume_window_ns, 0);
  submit.set_resume_handle(std::string(16, 'x'));
  EXPECT_EQ(ParseSubmit(submit, 0)->resume_window_ns, 5 * kMillisecond);
  submit.set_resume_window_ms(limits::kResumeWindowMsMax + 1);
  EXPECT_THAT(std::string(ParseSubmit(submit, 0).status().message()),
              testing::HasSubstr("resume_window_ms"));
}

TEST(Convert, StoresWithoutANameOrALifeAreLeftOut) {
  v1::ReportResponse answer;
  answer.add_stores()->mutable_ref()->set_name("dead");
  answer.add_stores()->mutable_ref()->set_incarnation(4);
  v1::StoreInfo* live = answer.add_stores();
  live->mutable_ref()->set_name("live");
  live->mutable_ref()->set_incarnation(5);
  live->set_failure_domain("rack");
  const LiveStores stores = ParseStores(answer);
  ASSERT_EQ(stores.stores.size(), 1u);
  EXPECT_EQ(stores.stores[0].node.key, (NodeKey{"live", 5}));
  EXPECT_EQ(stores.stores[0].domain, "rack");
}

}  // namespace
}  // namespace reprise::worker
