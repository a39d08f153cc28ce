#include "coordinator/policy/prefix_cover.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>

#include "common/random.h"

namespace reprise::coordinator {
namespace {

constexpr Slot kNodes = 5;

// Who holds what, as a table, and the definitions of PrefixCover read off it literally.
struct Table {
  explicit Table(SplitMix64& random) {
    const size_t blocks = random.Below(14);
    for (size_t b = 0; b < blocks; ++b) {
      for (Slot slot = 0; slot < kNodes; ++slot) {
        // Runs rather than noise: most nodes go on as they were.
        const bool before = b > 0 && holds[b - 1][slot];
        row[slot] = random.Chance(0.8) ? before || b == 0 : !before;
      }
      holds.push_back(row);
    }
    for (Slot slot = 0; slot < kNodes; ++slot) usable.push_back(random.Chance(0.8));
    for (const auto& held : holds) {
      std::vector<Slot> slots;
      for (Slot slot = 0; slot < kNodes; ++slot) {
        if (held[slot]) slots.push_back(slot);
      }
      lists.push_back(slots);
    }
    for (const auto& slots : lists) spans.emplace_back(slots);
  }
  bool Serves(Slot slot, size_t block) const { return usable[slot] && holds[block][slot]; }
  int64_t Covered() const {
    size_t b = 0;
    const auto anyone = [&] {
      for (Slot slot = 0; slot < kNodes; ++slot) {
        if (Serves(slot, b)) return true;
      }
      return false;
    };
    while (b < holds.size() && anyone()) ++b;
    return static_cast<int64_t>(b);
  }
  int64_t Leading(Slot slot) const {
    size_t b = 0;
    while (b < holds.size() && Serves(slot, b)) ++b;
    return static_cast<int64_t>(b);
  }
  // The fewest single-node runs that make up [from, covered), by dynamic programming.
  size_t FewestRuns(int64_t from, int64_t covered) const {
    std::vector<size_t> fewest(static_cast<size_t>(covered) + 1, 1000);
    fewest[static_cast<size_t>(from)] = 0;
    for (size_t at = static_cast<size_t>(from); at < static_cast<size_t>(covered); ++at) {
      for (Slot slot = 0; slot < kNodes; ++slot) {
        for (size_t end = at; end < static_cast<size_t>(covered) && Serves(slot, end); ++end) {
          fewest[end + 1] = std::min(fewest[end + 1], fewest[at] + 1);
        }
      }
    }
    return fewest.back();
  }

  std::array<bool, kNodes> row{};
  std::vector<std::array<bool, kNodes>> holds;
  std::vector<bool> usable;
  std::vector<std::vector<Slot>> lists;
  std::vector<std::span<const Slot>> spans;
};

TEST(PrefixCover, AgreesWithItsDefinitionsOnRandomTables) {
  constexpr size_t kPreference[kNodes] = {3, 1, 4, 0, 2};
  size_t several = 0;
  for (uint64_t seed = 1; seed <= 3000; ++seed) {
    SCOPED_TRACE(seed);
    SplitMix64 random(seed);
    const Table table(random);
    const PrefixCover cover(table.spans, table.usable);
    ASSERT_EQ(cover.covered(), table.Covered());
    for (Slot slot = 0; slot < kNodes; ++slot) {
      ASSERT_EQ(cover.Leading(slot), table.Leading(slot));
    }
    constexpr Slot kStranger = kNodes;  // holds nothing, so it fetches everything
    const auto ranges = cover.Ranges(kStranger, kPreference, std::numeric_limits<size_t>::max());
    int64_t at = 0;
    for (const PrefixCover::Range& range : ranges) {
      ASSERT_EQ(range.first, at);
      for (at = range.first; at < range.first + range.blocks; ++at) {
        ASSERT_TRUE(table.Serves(range.slot, static_cast<size_t>(at)));
      }
    }
    ASSERT_EQ(at, cover.covered());
    ASSERT_EQ(ranges.size(), table.FewestRuns(0, at));
    several += ranges.size() > 1;
    for (Slot reader = 0; reader < kNodes; ++reader) {
      for (const auto& range : cover.Ranges(reader, kPreference, 100)) {
        ASSERT_NE(range.slot, reader);
        ASSERT_GE(range.first, cover.Leading(reader));
      }
    }
    ASSERT_LE(cover.Ranges(kStranger, kPreference, 1).size(), 1u);
  }
  EXPECT_GT(several, 200u);
}

}  // namespace
}  // namespace reprise::coordinator
