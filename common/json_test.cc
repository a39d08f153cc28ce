#include "common/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "common/test_data.h"

namespace reprise {
namespace {

TEST(Json, FollowsTheParsingSuite) {
  const std::string dir = SharedDataOrSkip("json-test-suite/test_parsing");
  if (dir.empty()) GTEST_SKIP() << SharedDataMissing();
  int accepted = 0, refused = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    std::ifstream in(entry.path(), std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    JsonLimits limits;
    limits.depth_max = 1000;
    const auto doc = ParseJson(text.str(), limits);
    const std::string name = entry.path().filename();
    if (name[0] == 'y') {
      EXPECT_TRUE(doc.ok()) << name << ": " << doc.status();
      ++accepted;
    }
    if (name[0] == 'n') {
      EXPECT_FALSE(doc.ok()) << name;
      ++refused;
    }
  }
  EXPECT_GT(accepted, 90);
  EXPECT_GT(refused, 180);
}

TEST(Json, NumbersKeepTheirTypeAndPrecision) {
  const auto doc = ParseJson(
      "[0E80, -0, 9223372036854775807, -9223372036854775808, 18446744073709551615,"
      " 18446744073709551616, 0.1, 1e-400, 0E00000060, 123456789012345678e-10]");
  ASSERT_TRUE(doc.ok()) << doc.status();
  const JsonValue& v = *doc;
  EXPECT_EQ(v[0].GetDouble(), 0);
  EXPECT_TRUE(v[1].IsInt());
  EXPECT_EQ(v[2].GetInt64(), INT64_MAX);
  EXPECT_EQ(v[3].GetInt64(), INT64_MIN);
  EXPECT_FALSE(v[4].IsInt64());
  EXPECT_EQ(v[4].GetUint64(), UINT64_MAX);
  EXPECT_EQ(v[5].GetDouble(), 0x1p64);
  EXPECT_EQ(v[6].GetDouble(), 0.1);
  EXPECT_EQ(v[7].GetDouble(), 0);
  EXPECT_EQ(v[8].GetDouble(), 0);
  EXPECT_EQ(v[9].GetDouble(), 12345678.9012345678);
  EXPECT_FALSE(ParseJson("1e400").ok());
  EXPECT_FALSE(ParseJson(std::string(400, '9')).ok());
}

TEST(Json, NamesTheLimitItHits) {
  JsonLimits limits;
  limits.depth_max = 2;
  EXPECT_THAT(ParseJson("[[[]]]", limits).status().message(), testing::HasSubstr("limit of 2"));
  limits.bytes_max = 3;
  EXPECT_EQ(ParseJson("[1, 2]", limits).status().code(), absl::StatusCode::kResourceExhausted);
  limits = {};
  limits.unique_keys = true;
  EXPECT_THAT(ParseJson(R"({"a":1,"a":2})", limits).status().message(),
              testing::HasSubstr("\"a\" twice"));
}

TEST(Json, WritesWhatItReads) {
  const std::string text =
      JsonWriter().Field("s", "a\"\n\xff").Field("n", 1.5).Field("b", true).Take();
  const auto doc = ParseJson(text);
  ASSERT_TRUE(doc.ok()) << text;
  EXPECT_EQ(*GetString(*doc, "s", ""), "a\"\n\xEF\xBF\xBD");
  EXPECT_EQ(*GetNumber(*doc, "n", 0), 1.5);
  EXPECT_EQ(*GetBool(*doc, "b", false), true);
  EXPECT_EQ(*GetInt(*doc, "absent", 7), 7);
  EXPECT_THAT(GetInt(*doc, "s", 0).status().message(), testing::HasSubstr("must be an integer"));
}

}  // namespace
}  // namespace reprise
