// In a process of its own: the rule cannot be put back.
#include "common/bind_policy.h"

#include <gtest/gtest.h>

#include "common/bind_address.h"

namespace reprise {
namespace {

TEST(AllowPlaintextBeyondLoopback, LetsNumericAddressesPass) {
  ASSERT_EQ(CheckLoopback("10.0.0.1").code(), absl::StatusCode::kPermissionDenied);
  AllowPlaintextBeyondLoopback();
  for (const char* host : {"127.0.0.1", "10.0.0.1", "0.0.0.0", "fd00::1", "localhost"}) {
    EXPECT_TRUE(CheckLoopback(host).ok()) << host;
  }
  for (const char* host : {"example.com", "127.1", "localhost.", "", "*"}) {
    EXPECT_EQ(CheckLoopback(host).code(), absl::StatusCode::kPermissionDenied) << host;
  }
  EXPECT_FALSE(CheckLoopback(absl::string_view("10.0.0.1\0x", 10)).ok());
}

}  // namespace
}  // namespace reprise
