#include "worker/parallel/ucx_group.h"

#include <gtest/gtest.h>

namespace reprise::parallel {
namespace {

TEST(UcxGroupOptions, AreReadFromFlags) {
  const auto options = ParseUcxGroupOptions("127.0.0.1:4711", "eth0,lo", false);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->host, "127.0.0.1");
  EXPECT_EQ(options->port, 4711);
  EXPECT_EQ(options->devices, "eth0,lo");
  EXPECT_FALSE(options->shared_memory);
}

TEST(UcxGroupOptions, AddressesBeyondLoopbackOrWithoutAPortAreRefused) {
  EXPECT_EQ(ParseUcxGroupOptions("192.0.2.1:0", "lo", true).status().code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ParseUcxGroupOptions("127.0.0.1", "lo", true).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace reprise::parallel
