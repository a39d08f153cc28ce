#include "common/thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>

namespace reprise {
namespace {

std::string OwnName() {
  char name[16];
  pthread_getname_np(pthread_self(), name, sizeof(name));
  return name;
}

TEST(Thread, CarriesItsNameCutToTheKernelsLimit) {
  std::string shown;
  Thread thread("engine-scheduler-7", [&] { shown = OwnName(); });
  thread.Join();
  EXPECT_EQ(shown, "engine-schedule");
  EXPECT_FALSE(thread.joinable());
}

TEST(Thread, IsJoinedByDestructionAndByAssignment) {
  std::atomic<int> done = 0;
  std::atomic<bool> go = false;
  {
    Thread thread("first", [&] {
      while (!go) std::this_thread::yield();
      ++done;
    });
    go = true;
    thread = Thread("second", [&] { ++done; });
    EXPECT_GE(done, 1);
  }
  EXPECT_EQ(done, 2);
  Thread none;
  EXPECT_FALSE(none.joinable());
  none.Join();
}

}  // namespace
}  // namespace reprise
