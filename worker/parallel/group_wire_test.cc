#include "worker/parallel/group_wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/bytes.h"
#include "common/limits.h"

namespace reprise::parallel::wire {
namespace {

const CallTag kTag{.op = Op::kAllReduce, .call = 3, .step = 1, .call_bytes = 40};

std::vector<Message> OneOfEach() {
  return {Hello{.size = 4, .from = 3, .to = 1},
          Welcome{},
          Abort{absl::StatusCode::kUnavailable, "rank 2 died"},
          Bye{},
          Data{7, kTag, 5, "hello"},
          Data{8, kTag, 1 << 20, ""},
          Ready{8, kTag, 1 << 20},
          Consumed{7}};
}

TEST(GroupWire, EveryMessageComesBackAndNoPrefixOfIt) {
  for (const Message& message : OneOfEach()) {
    const std::string bytes = Encode({{5, 6}, message});
    const auto decoded = Decode(AsBytes(bytes));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->key, (GroupKey{5, 6}));
    EXPECT_EQ(decoded->message, message);
    for (size_t n = 0; n < bytes.size(); ++n) {
      EXPECT_FALSE(Decode(AsBytes(bytes).first(n)).ok()) << message.index() << " " << n;
    }
    EXPECT_FALSE(Decode(AsBytes(bytes + "x")).ok()) << message.index();
  }
}

std::string Refusal(const Message& message) {
  return std::string(Decode(AsBytes(Encode({{5, 6}, message}))).status().message());
}

TEST(GroupWire, RefusesWhatNoRankSays) {
  EXPECT_THAT(Refusal(Hello{.size = 4, .from = 4, .to = 1}), testing::HasSubstr("rank 4 dials"));
  EXPECT_THAT(Refusal(Hello{.size = 4, .from = 1, .to = 1}), testing::HasSubstr("dials rank 1"));
  EXPECT_THAT(Refusal(Hello{.size = 1 << 20, .from = 4, .to = 1}),
              testing::HasSubstr("of 1048576, the limit is 64"));
  EXPECT_THAT(Refusal(Abort{absl::StatusCode::kOk, ""}), testing::HasSubstr("code 0"));
  EXPECT_THAT(Refusal(Ready{1, kTag, 100}), testing::HasSubstr("ready for 100 bytes"));
  CallTag unknown = kTag;
  unknown.op = static_cast<Op>(kOps);
  EXPECT_THAT(Refusal(Consumed{}), "");
  EXPECT_THAT(Refusal(Data{1, unknown, 0, ""}), testing::HasSubstr("operation 6 is unknown"));
}

TEST(GroupWire, LongCausesAreCut) {
  const std::string bytes =
      Encode({{}, Abort{absl::StatusCode::kAborted, std::string(5'000, 'x')}});
  const auto decoded = Decode(AsBytes(bytes));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(std::get<Abort>(decoded->message).message.size(), limits::kStreamErrorBytesMax);
}

TEST(GroupWire, BulkHeadersComeBack) {
  const Bulk bulk{{1, 2}, 3};
  EXPECT_EQ(DecodeBulk(EncodeBulk(bulk)), bulk);
}

}  // namespace
}  // namespace reprise::parallel::wire
