#include "cli/client/transcript.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace reprise::client {
namespace {

using ::testing::ElementsAre;

v1::GenerateEvent Accepted(const std::string& id = "r") {
  v1::GenerateEvent event;
  event.mutable_accepted()->set_request_id(id);
  event.mutable_accepted()->set_seed(7);
  event.mutable_accepted()->set_resume_handle(std::string(16, 'h'));
  return event;
}
v1::GenerateEvent Tokens(int32_t branch, int32_t first, std::vector<int32_t> ids) {
  v1::GenerateEvent event;
  for (const int32_t id : ids) {
    v1::Token* token = event.mutable_tokens()->add_tokens();
    token->set_branch(branch);
    token->set_index(first++);
    token->set_id(id);
  }
  return event;
}
v1::GenerateEvent Ended(int32_t branch) {
  v1::GenerateEvent event;
  event.mutable_branch_finished()->set_branch(branch);
  return event;
}
bool Passes(Transcript& transcript, v1::GenerateEvent event) {
  const auto passed = transcript.Take(&event);
  EXPECT_TRUE(passed.ok()) << passed.status();
  return passed.ok() && *passed;
}

TEST(Transcript, AResumeNamesWhatTheClientHas) {
  v1::GenerateRequest request;
  request.set_text("once");
  request.set_deadline_ms(1000);
  request.mutable_sampling()->set_n(2);
  Transcript transcript(request);
  EXPECT_FALSE(transcript.accepted());
  EXPECT_TRUE(Passes(transcript, Accepted()));
  EXPECT_TRUE(Passes(transcript, Tokens(1, 0, {21, 22})));
  EXPECT_TRUE(Passes(transcript, Tokens(0, 0, {11})));
  const v1::GenerateRequest resume = transcript.ResumeRequest(300);
  EXPECT_EQ(resume.request_id(), "r");
  EXPECT_EQ(resume.text(), "once");
  EXPECT_EQ(resume.sampling().seed(), 7u);
  EXPECT_EQ(resume.sampling().n(), 2);
  EXPECT_EQ(resume.deadline_ms(), 700);
  EXPECT_EQ(resume.resume().handle(), std::string(16, 'h'));
  ASSERT_EQ(resume.resume().received_size(), 2);
  EXPECT_THAT(resume.resume().received(0).ids(), ElementsAre(11));
  EXPECT_THAT(resume.resume().received(1).ids(), ElementsAre(21, 22));
  EXPECT_EQ(transcript.ResumeRequest(5000).deadline_ms(), 1);
}

TEST(Transcript, WhatComesAgainIsPassedOnOnce) {
  Transcript transcript({});
  EXPECT_TRUE(Passes(transcript, Accepted()));
  EXPECT_TRUE(Passes(transcript, Tokens(0, 0, {11, 12})));
  EXPECT_TRUE(Passes(transcript, Ended(1)));
  EXPECT_FALSE(Passes(transcript, Accepted()));
  EXPECT_FALSE(Passes(transcript, Tokens(0, 1, {12})));
  v1::GenerateEvent overlap = Tokens(0, 1, {12, 13, 14});
  const auto passed = transcript.Take(&overlap);
  ASSERT_TRUE(passed.ok() && *passed);
  ASSERT_EQ(overlap.tokens().tokens_size(), 2);
  EXPECT_EQ(overlap.tokens().tokens(0).id(), 13);
  EXPECT_EQ(overlap.tokens().tokens(1).index(), 3);
  EXPECT_FALSE(Passes(transcript, Ended(1)));
  EXPECT_TRUE(Passes(transcript, Ended(0)));
  EXPECT_EQ(transcript.tokens(), 4);
}

TEST(Transcript, OtherTokensGapsAndOtherRequestsAreErrors) {
  Transcript transcript({});
  EXPECT_TRUE(Passes(transcript, Accepted()));
  EXPECT_TRUE(Passes(transcript, Tokens(0, 0, {11})));
  for (v1::GenerateEvent wrong :
       {Tokens(0, 0, {99}), Tokens(0, 2, {13}), Tokens(-1, 0, {1}), Tokens(0, -1, {1}),
        Tokens(1000, 0, {1}), Ended(1000), Accepted("other")}) {
    EXPECT_EQ(transcript.Take(&wrong).status().code(), absl::StatusCode::kInternal)
        << wrong.ShortDebugString();
  }
}

TEST(Transcript, ARequestThatIsAResumeBeginsBehindWhatItsCallerHas) {
  v1::GenerateRequest request;
  request.mutable_resume()->add_received()->add_ids(11);
  Transcript transcript(request);
  EXPECT_TRUE(Passes(transcript, Accepted()));
  EXPECT_TRUE(Passes(transcript, Tokens(0, 1, {12})));
  EXPECT_THAT(transcript.ResumeRequest(0).resume().received(0).ids(), ElementsAre(11, 12));
}

}  // namespace
}  // namespace reprise::client
