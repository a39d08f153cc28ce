// Reading processes from outside.
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/cluster/cluster.h"

namespace reprise::harness {
namespace {

TEST(ProcessCpuSeconds, OfThisProcessAndOfNone) {
  EXPECT_GE(*ProcessCpuSeconds(getpid()), 0);
  EXPECT_EQ(ProcessCpuSeconds(1 << 30).status().code(), absl::StatusCode::kNotFound);
}

TEST(ScratchDir, GoesWithItsOwner) {
  std::string path;
  {
    const auto dir = ScratchDir::Create();
    ASSERT_TRUE(dir.ok()) << dir.status();
    path = (*dir)->path();
    EXPECT_EQ(access(path.c_str(), W_OK), 0);
  }
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

}  // namespace
}  // namespace reprise::harness
