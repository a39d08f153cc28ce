#include "worker/parallel/nccl/call_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace reprise::parallel {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

CallPost Send(uint64_t number, int peer, uint64_t bytes = 8) {
  return {.number = number,
          .kind = PostKind::kSend,
          .tag = {},
          .peer = peer,
          .bytes = bytes,
          .sends = {},
          .receives = {}};
}
CallPost Receive(uint64_t number, int peer, uint64_t bytes = 8) {
  CallPost post = Send(number, peer, bytes);
  post.kind = PostKind::kReceive;
  return post;
}
CallPost Gather(uint64_t number, std::vector<uint64_t> sends, std::vector<uint64_t> receives) {
  return {.number = number,
          .kind = PostKind::kCollective,
          .tag = {.op = Op::kAllGather, .call = 1, .step = 0, .call_bytes = 30},
          .peer = 0,
          .bytes = 0,
          .sends = std::move(sends),
          .receives = std::move(receives)};
}
CallPost Bye() {
  CallPost post = Send(0, 0);
  post.kind = PostKind::kBye;
  return post;
}
using Begin = CallOrder::Begin;

TEST(CallOrder, AMessageBeginsOnBothSidesWhenBothHavePostedIt) {
  CallOrder order(3);
  EXPECT_THAT(*order.Add(0, Send(11, 1)), IsEmpty());
  EXPECT_THAT(*order.Add(2, Receive(31, 1)), IsEmpty());
  EXPECT_THAT(*order.Add(1, Receive(21, 0)), ElementsAre(Begin{0, 11}, Begin{1, 21}));
  EXPECT_THAT(*order.Add(1, Send(22, 2)), ElementsAre(Begin{1, 22}, Begin{2, 31}));
}

TEST(CallOrder, CrossingMessagesBeginInOneOrderOnBothSides) {
  CallOrder order(2);
  EXPECT_THAT(*order.Add(0, Send(1, 1)), IsEmpty());
  EXPECT_THAT(*order.Add(1, Send(1, 0)), IsEmpty());
  EXPECT_THAT(*order.Add(1, Receive(2, 0)), ElementsAre(Begin{0, 1}, Begin{1, 2}));
  EXPECT_THAT(*order.Add(0, Receive(2, 1)), ElementsAre(Begin{1, 1}, Begin{0, 2}));
}

TEST(CallOrder, ACollectiveBeginsWhenAllRanksArePosted) {
  CallOrder order(3);
  EXPECT_THAT(*order.Add(1, Gather(5, {10, 0, 10}, {0, 0, 20})), IsEmpty());
  EXPECT_THAT(*order.Add(0, Gather(6, {0, 0, 0}, {0, 10, 20})), IsEmpty());
  EXPECT_THAT(*order.Add(2, Gather(7, {20, 20, 0}, {0, 10, 0})),
              ElementsAre(Begin{0, 6}, Begin{1, 5}, Begin{2, 7}));
  CallOrder alone(1);
  EXPECT_THAT(*alone.Add(0, Gather(1, {0}, {0})), ElementsAre(Begin{0, 1}));
}

TEST(CallOrder, SizesThatDifferAreNamedWithBothRanks) {
  CallOrder order(2);
  ASSERT_TRUE(order.Add(0, Send(1, 1, 10)).ok());
  const Status one = order.Add(1, Receive(1, 0, 11)).status();
  EXPECT_EQ(one.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(one.message()), HasSubstr("rank 0 is in a message of 10 bytes, rank 1 "
                                                    "in a message of 11 bytes"));
}

TEST(CallOrder, ARankInACollectiveDoesNotTakeAMessage) {
  CallOrder order(2);
  ASSERT_TRUE(order.Add(0, Send(1, 1)).ok());
  const Status status = order.Add(1, Gather(1, {10, 0}, {20, 0})).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("all_gather of 30 bytes"));
}

TEST(CallOrder, OnlyWhoNeedsARankThatLeftFails) {
  CallOrder order(3);
  ASSERT_TRUE(order.Add(2, Bye()).ok());
  ASSERT_TRUE(order.Add(0, Send(1, 1)).ok());
  EXPECT_THAT(*order.Add(1, Receive(1, 0)), ElementsAre(Begin{0, 1}, Begin{1, 1}));
  const Status status = order.Add(0, Receive(2, 2)).status();
  EXPECT_EQ(status, absl::UnavailableError("rank 2 has left"));
  CallOrder other(2);
  ASSERT_TRUE(other.Add(0, Send(1, 1)).ok());
  EXPECT_EQ(other.Add(1, Bye()).status(), absl::UnavailableError("rank 1 has left"));
}

TEST(CallPost, DecodesWhatWasEncodedAndNothingElse) {
  const CallPost post = Gather(5, {10, 0, 10}, {0, 0, 20});
  std::vector<uint8_t> bytes = EncodePost(post, 3);
  EXPECT_EQ(bytes.size(), PostBytes(3));
  EXPECT_EQ(*DecodePost(bytes, 3), post);
  EXPECT_FALSE(DecodePost(bytes, 4).ok());
  bytes[8] = 1;  // a send that is all_gather
  EXPECT_THAT(std::string(DecodePost(bytes, 3).status().message()),
              HasSubstr("kind 1, operation 3"));
  bytes = EncodePost(Send(1, 2), 3);
  EXPECT_TRUE(DecodePost(bytes, 3).ok());
  EXPECT_THAT(std::string(DecodePost(EncodePost(Send(1, 3), 3), 3).status().message()),
              HasSubstr("rank 3 of 3"));
}

}  // namespace
}  // namespace reprise::parallel
