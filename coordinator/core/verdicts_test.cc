#include "coordinator/core/verdicts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/limits.h"

namespace reprise::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const NodeKey kA{"a", 1}, kB{"b", 2};

TEST(Verdicts, AreListedOldestFirstWithANewVersionEach) {
  Verdicts verdicts(7);
  EXPECT_EQ(verdicts.version(), 7u);
  verdicts.Issue(kA, "silent", 0);
  verdicts.Issue(kB, "stuck", 1);
  EXPECT_EQ(verdicts.version(), 9u);
  EXPECT_THAT(verdicts.List().items, ElementsAre(Verdict{kA, "silent"}, Verdict{kB, "stuck"}));
}

TEST(Verdicts, ANodeIsNamedOnceByItsLastReason) {
  Verdicts verdicts(1);
  verdicts.Issue(kA, "stuck", 0);
  verdicts.Issue(kB, "stuck", 0);
  verdicts.Issue(kA, "silent", 1);
  EXPECT_THAT(verdicts.List().items, ElementsAre(Verdict{kB, "stuck"}, Verdict{kA, "silent"}));
}

TEST(Verdicts, OneThatEndsLeavesWithoutANewVersion) {
  Verdicts verdicts(1);
  verdicts.Issue(kA, "stuck", 0);
  verdicts.Issue(kB, "silent", 0);
  verdicts.Withdraw(kA);
  EXPECT_THAT(verdicts.List().items, ElementsAre(Verdict{kB, "silent"}));
  verdicts.Tick(kMinute - 1);
  EXPECT_THAT(verdicts.List().items, ElementsAre(Verdict{kB, "silent"}));
  verdicts.Tick(kMinute);
  EXPECT_THAT(verdicts.List().items, IsEmpty());
  EXPECT_EQ(verdicts.version(), 3u);
}

TEST(Verdicts, AreBounded) {
  Verdicts verdicts(1);
  for (uint64_t i = 1; i <= limits::kVerdictsMax + 5; ++i) verdicts.Issue({"n", i}, "replaced", 0);
  EXPECT_EQ(verdicts.List().items.size(), limits::kVerdictsMax);
  EXPECT_EQ(verdicts.List().items.front().node.incarnation, 6u);
}

}  // namespace
}  // namespace reprise::coordinator
