#include "common/failpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

namespace reprise {
namespace {

using testing::Contains;
using testing::Pair;

TEST(Failpoint, IsCountedOnceArmed) {
  Failpoint("worker.emit");
  ASSERT_TRUE(ArmFailpoints("worker.emit=count").ok());
  Failpoint("worker.emit");
  Failpoint("worker.emit");
  EXPECT_THAT(FailpointHits(), Contains(Pair("worker.emit", 2)));
  EXPECT_THAT(FailpointHits(), Contains(Pair("store.seal", 0)));
}

TEST(Failpoint, KillsAtTheHitItWasArmedFor) {
  EXPECT_EXIT(
      {
        static_cast<void>(ArmFailpoints("store.seal=kill@3"));
        for (int hit = 0; hit < 3; ++hit) Failpoint("store.seal");
        _exit(0);
      },
      testing::KilledBySignal(SIGKILL), "");
  EXPECT_EXIT(
      {
        static_cast<void>(ArmFailpoints("store.seal=kill@3"));
        for (int hit = 0; hit < 2; ++hit) Failpoint("store.seal");
        _exit(0);
      },
      testing::ExitedWithCode(0), "");
}

TEST(Failpoint, HangsTheThreadForEver) {
  EXPECT_EXIT(
      {
        static_cast<void>(ArmFailpoints("store.seal=hang"));
        ualarm(20'000, 0);
        Failpoint("store.seal");
        _exit(0);
      },
      testing::KilledBySignal(SIGALRM), "");
}

TEST(Failpoint, BadOrdersAreRefusedByName) {
  EXPECT_THAT(std::string(ArmFailpoints("no.such=kill").message()), testing::HasSubstr("no.such"));
  EXPECT_FALSE(ArmFailpoints("store.seal=explode").ok());
  EXPECT_FALSE(ArmFailpoints("store.seal=kill@x").ok());
  EXPECT_FALSE(ArmFailpoints("store.seal=kill@0").ok());
}

}  // namespace
}  // namespace reprise
