#include "coordinator/leader/leader_record.h"

#include <gtest/gtest.h>

namespace reprise::coordinator {
namespace {

TEST(LeaderRecord, ComesBackFromItsText) {
  const LeaderRecord record{12, "coordinator-0", "127.0.0.1:4000"};
  EXPECT_EQ(FormatLeader(record), "12 coordinator-0 127.0.0.1:4000");
  const auto parsed = ParseLeader(FormatLeader(record));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, record);
}

TEST(LeaderRecord, AKeyOfSomebodyElseIsRefused) {
  for (const char* text :
       {"", "12", "12 a", "12 a b c", "0 a b", "-1 a b", "012 a b", "x a b", " a b", "12  b",
        "12 a ", "4294967295 a b", "99999999999999999999 a b"}) {
    EXPECT_EQ(ParseLeader(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_FALSE(ParseLeader("1 a " + std::string(10'000, 'b')).ok());
}

}  // namespace
}  // namespace reprise::coordinator
