#include "gateway/server/stream_buffer.h"

#include <gtest/gtest.h>

namespace reprise::gateway {
namespace {

void Add(StreamBuffer& buffer, int32_t index, const std::string& text = "") {
  v1::Token* token = buffer.AddToken(text, 100 + index, 0);
  token->set_index(index);
  token->set_id(index + 1000);
}

TEST(StreamBuffer, TokensThatWaitTogetherTravelTogether) {
  StreamBuffer buffer;
  for (int32_t i = 0; i < 3; ++i) Add(buffer, i);
  v1::GenerateEvent event;
  ASSERT_TRUE(buffer.Take(&event));
  ASSERT_EQ(event.tokens().tokens_size(), 3);
  EXPECT_EQ(event.tokens().tokens(2).id(), 1002);
  EXPECT_EQ(event.tokens().watermark(), 102) << "the latest";
  EXPECT_FALSE(buffer.Take(&event));
  EXPECT_EQ(buffer.bytes(), 0u);
}

TEST(StreamBuffer, EventsKeepTheirOrderAndSplitTheTokens) {
  StreamBuffer buffer;
  buffer.AddEvent()->mutable_accepted()->set_request_id("r");
  Add(buffer, 0);
  buffer.AddEvent()->mutable_branch_finished()->set_branch(1);
  Add(buffer, 1);
  std::vector<v1::GenerateEvent::EventCase> cases;
  v1::GenerateEvent event;
  while (buffer.Take(&event)) cases.push_back(event.event_case());
  EXPECT_EQ(cases, (std::vector<v1::GenerateEvent::EventCase>{
                       v1::GenerateEvent::kAccepted, v1::GenerateEvent::kTokens,
                       v1::GenerateEvent::kBranchFinished, v1::GenerateEvent::kTokens}));
}

TEST(StreamBuffer, ReusedMessagesCarryNothingOver) {
  StreamBuffer buffer;
  v1::GenerateEvent event;
  for (int round = 0; round < 5; ++round) {
    v1::Token* token = buffer.AddToken("text", 7, 1);
    token->add_top()->set_token(3);
    token->set_branch(2);
    ASSERT_TRUE(buffer.Take(&event));
    Add(buffer, round);
    ASSERT_TRUE(buffer.Take(&event));
    ASSERT_EQ(event.tokens().tokens_size(), 1);
    EXPECT_EQ(event.tokens().tokens(0).top_size(), 0);
    EXPECT_EQ(event.tokens().tokens(0).branch(), 0);
    EXPECT_EQ(event.tokens().tokens(0).text(), "");
    buffer.AddEvent()->mutable_finished()->set_code(1);
    ASSERT_TRUE(buffer.Take(&event));
    EXPECT_EQ(event.finished().code(), 1);
    EXPECT_FALSE(event.has_tokens());
  }
}

TEST(StreamBuffer, BytesAreAtLeastTheEncodedSizeAndNotFarAbove) {
  StreamBuffer buffer;
  for (int32_t i = 0; i < 1000; ++i) {
    v1::Token* token = buffer.AddToken("some text", 1 << 20, 5);
    token->set_branch(7);
    token->set_index(1 << 20);
    token->set_id(128'000);
    token->set_logprob(-1.5f);
    for (int t = 0; t < 5; ++t) {
      token->add_top()->set_token(128'000 + t);
      token->mutable_top(t)->set_logprob(-2.5f);
    }
  }
  const size_t counted = buffer.bytes();
  v1::GenerateEvent event;
  ASSERT_TRUE(buffer.Take(&event));
  EXPECT_GE(counted, event.ByteSizeLong());
  EXPECT_LE(counted, 2 * event.ByteSizeLong());
}

}  // namespace
}  // namespace reprise::gateway
