// Reading processes from outside.
#include <gtest/gtest.h>
#include <unistd.h>

#include "common/mutex.h"
#include "common/role.h"
#include "common/thread.h"
#include "tests/cluster/cluster.h"

namespace reprise::harness {
namespace {

TEST(ProcessCpuSeconds, OfThisProcessAndOfNone) {
  EXPECT_GE(*ProcessCpuSeconds(getpid()), 0);
  EXPECT_EQ(ProcessCpuSeconds(1 << 30).status().code(), absl::StatusCode::kNotFound);
}

TEST(ProcessSleeps, CountsThoseOfEveryThread) {
  const auto before = ProcessSleeps(getpid());
  ASSERT_TRUE(before.ok()) << before.status();
  constexpr int kSleeps = 20;
  StopSignal never;
  Mutex mu;
  CondVar changed;
  bool slept = false;
  bool seen = false;
  Thread other("other", [&] {
    for (int i = 0; i < kSleeps; ++i) never.WaitFor(kMillisecond);
    MutexLock lock(mu);
    slept = true;
    changed.NotifyAll();
    while (!seen) changed.Wait(mu);
  });
  {
    MutexLock lock(mu);
    while (!slept) changed.Wait(mu);
    EXPECT_GE(*ProcessSleeps(getpid()), *before + kSleeps);
    seen = true;
    changed.NotifyAll();
  }
  other.Join();
  EXPECT_EQ(ProcessSleeps(1 << 30).status().code(), absl::StatusCode::kNotFound);
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
