#include "common/bind_address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace reprise {
namespace {

TEST(ParseHostPort, ReadsNamesAndBothFamilies) {
  EXPECT_EQ(*ParseHostPort("127.0.0.1:0"), (HostPort{"127.0.0.1", 0}));
  EXPECT_EQ(*ParseHostPort("localhost:65535"), (HostPort{"localhost", 65535}));
  EXPECT_EQ(*ParseHostPort("[::1]:80"), (HostPort{"::1", 80}));
}

TEST(ParseHostPort, WritesWhatItReads) {
  for (const char* text : {"127.0.0.1:0", "localhost:65535", "[::1]:80"}) {
    EXPECT_EQ(ParseHostPort(text)->ToString(), text);
  }
}

TEST(ParseHostPort, RefusesTheRestByName) {
  for (const char* text : {"", "127.0.0.1", ":80", "[]:80", "::1:80", "a:65536", "a:-1",
                           "a:", "a:1x", "a: 1", "a:+1", "a:000080"}) {
    const auto parsed = ParseHostPort(text);
    ASSERT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(parsed.status().message()),
                testing::HasSubstr(absl::StrCat("address \"", text, "\"")));
  }
}

TEST(CheckLoopback, AllowsLoopback) {
  for (const char* host : {"127.0.0.1", "127.255.3.4", "::1", "0:0:0:0:0:0:0:1", "localhost"}) {
    EXPECT_TRUE(CheckLoopback(host).ok()) << host;
  }
}

TEST(CheckLoopback, RefusesEverythingElse) {
  for (const char* host : {"0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "127.0.0.1.example.com",
                           "127.1", "localhost.", "LOCALHOST", "", "::ffff:10.0.0.1", "*"}) {
    const Status status = CheckLoopback(host);
    ASSERT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << host;
    EXPECT_EQ(std::string(status.message()),
              absl::StrCat("refusing to listen on ", host,
                           ": TLS is not available, so only loopback addresses are allowed"));
  }
  EXPECT_FALSE(CheckLoopback(absl::string_view("127.0.0.1\0x", 11)).ok());
}

}  // namespace
}  // namespace reprise
