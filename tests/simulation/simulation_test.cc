// The cluster's promises over many seeded histories, and proof that the checkers can fail: every
// planted bug is found within 50 seeds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/test_data.h"
#include "tests/simulation/cluster.h"

namespace reprise::sim {
namespace {

std::string Reproduce(uint64_t seed) {
  return absl::StrCat("bazel run //tests/simulation:simulate -- --verbose --seed ", seed);
}

TEST(Simulation, EverySeedKeepsEveryPromise) {
  const uint64_t seeds = TestNumber("REPRISE_SIM_SEEDS", 300);  // histories
  RunTotals totals;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    const RunResult result = RunSeed({.seed = seed});
    ASSERT_FALSE(result.failure) << "seed " << seed << ": " << *result.failure << "\n"
                                 << Reproduce(seed);
    totals.Add(result.totals);
  }
  std::printf("%s\n", totals.Text().c_str());
  if (seeds < 100) return;
  // What the promises were kept against really happened, every kind of it.
  for (size_t kind = 0; kind < kInjectedNames.size(); ++kind) {
    EXPECT_GT(totals.faults.of(kind), 0u) << kInjectedNames[kind];
  }
  EXPECT_GT(totals.journal.tokens, 100 * seeds);
  EXPECT_GT(totals.journal.replaced, seeds);
  EXPECT_GT(totals.journal.cancelled, 0u);
  EXPECT_GT(totals.journal.past_deadline, 0u);
  EXPECT_GT(totals.streams_broken, 0u);
  EXPECT_GT(totals.checksum_failures, 0u);
  EXPECT_GT(totals.fetches_cancelled, 0u);
  EXPECT_GT(totals.prefix_tokens, 0u);
  EXPECT_GT(totals.fetch_hits, 0u);
  EXPECT_GT(totals.legs_served, 0u);
  EXPECT_GT(totals.legs_failed, 0u);
  EXPECT_GT(totals.preemptions, 0u);
  EXPECT_GT(totals.evictions, 0u);
  EXPECT_GT(totals.store_hits, 0u);
  EXPECT_GT(totals.store_evictions, 0u);
  EXPECT_GT(totals.disk_loads, 0u);
  EXPECT_GT(totals.disk_failures, 0u);
  EXPECT_GT(totals.links_failed, 0u);
  EXPECT_GT(totals.resumes, 0u);
  EXPECT_GT(totals.attaches, 0u);
  EXPECT_GT(totals.orphaned, 0u);
  EXPECT_GT(totals.windows_over, 0u);
  EXPECT_GT(totals.elections, 0u);
  EXPECT_GT(totals.stale_leader_refused, 0u);
  EXPECT_GT(totals.appended_rows, 0u);
  EXPECT_GT(totals.watermarks_checked, 10 * seeds);
  EXPECT_GT(totals.replicas_lost, 0u);
  EXPECT_GT(totals.rebuilds, 0u);
  EXPECT_GT(totals.restored_rows, 0u);
  EXPECT_GT(totals.blocks_sealed, 0u);
  EXPECT_GT(totals.damaged_appends, 0u);
  EXPECT_GT(totals.append_gaps, 0u);
  EXPECT_GT(totals.stale_appends, 0u);
}

TEST(Simulation, TheSameSeedGivesTheSameHistory) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    const RunResult once = RunSeed({.seed = seed});
    const RunResult again = RunSeed({.seed = seed});
    EXPECT_EQ(once.hash, again.hash) << "seed " << seed;
    EXPECT_EQ(once.totals.Text(), again.totals.Text()) << "seed " << seed;
    EXPECT_NE(once.hash, RunSeed({.seed = seed + 1000}).hash);
  }
}

struct Planted {
  Mutation mutation;
  const char* name;
  // What the finder says: it must be the bug that is found, not something else.
  const char* finding;
};

class PlantedBug : public testing::TestWithParam<Planted> {};

TEST_P(PlantedBug, IsFoundWithinFiftySeeds) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    const RunResult result = RunSeed({.seed = seed, .mutation = GetParam().mutation});
    if (!result.failure) continue;
    EXPECT_THAT(*result.failure, testing::ContainsRegex(GetParam().finding)) << "seed " << seed;
    return;
  }
  FAIL() << "nothing was found";
}

INSTANTIATE_TEST_SUITE_P(
    Simulation, PlantedBug,
    testing::Values(
        Planted{Mutation::kChecksumUnchecked, "ChecksumUnchecked",
                "an undisturbed run gives|the watermark says.* is wrong"},
        Planted{Mutation::kFetchDoneBeforeQuiet, "FetchDoneBeforeQuiet",
                "an undisturbed run gives|changed while a transfer"},
        Planted{Mutation::kPageQuietAtOnce, "PageQuietAtOnce", "changed while a transfer"},
        Planted{Mutation::kUnlistForgotten, "UnlistForgotten",
                "an undisturbed run gives|changed while a transfer"},
        Planted{Mutation::kPublishedEarly, "PublishedEarly",
                "an undisturbed run gives|changed while a transfer"},
        Planted{Mutation::kPublicationDropped, "PublicationDropped", "calm history"},
        Planted{Mutation::kLinkLossNotTold, "LinkLossNotTold", "streams still open"},
        Planted{Mutation::kStorePinDropped, "StorePinDropped", "changed while a transfer"},
        Planted{Mutation::kFenceRemoved, "FenceRemoved", "the watermark says|is not quiet"},
        Planted{Mutation::kPackedEarly, "PackedEarly", "changed while an append packed"},
        Planted{Mutation::kWatermarkPlusOne, "WatermarkPlusOne", "the watermark says"},
        Planted{Mutation::kTailUnchecked, "TailUnchecked",
                "an undisturbed run gives|the watermark says"},
        Planted{Mutation::kReleaseForgotten, "ReleaseForgotten", "is not quiet.*replicas of"},
        Planted{Mutation::kStaleLeaderObeyed, "StaleLeaderObeyed", "long replaced was obeyed"},
        Planted{Mutation::kGapAccepted, "GapAccepted", "the watermark says"},
        Planted{Mutation::kEpochGoesOn, "EpochGoesOn", "granted twice"},
        Planted{Mutation::kKeyTakenBlindly, "KeyTakenBlindly", "two lead in epoch"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace reprise::sim
