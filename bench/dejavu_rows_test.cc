#include "bench/dejavu_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/dejavu_swap.h"

namespace reprise::bench {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr size_t kRowBytes = 64;
constexpr RowKey kKey{.space = 3, .sequence = 7};

TEST(DejavuRows, ARowIsRightAtItsOwnPlaceOnly) {
  std::vector<uint8_t> row(kRowBytes);
  FillRow(kKey, 5, row);
  EXPECT_TRUE(RowIsRight(kKey, 5, row));
  EXPECT_FALSE(RowIsRight(kKey, 6, row));
  EXPECT_FALSE(RowIsRight({.space = 4, .sequence = 7}, 5, row));
  EXPECT_FALSE(RowIsRight({.space = 3, .sequence = 8}, 5, row));
  row[kRowBytes - 1] ^= 1;
  EXPECT_FALSE(RowIsRight(kKey, 5, row));
}

TEST(DejavuRows, PrefixGrowsOverWhatIsHeldFromTheFirstOn) {
  DejavuRows rows(10, kRowBytes);
  EXPECT_THAT(rows.Write(kKey, 0, 2), ElementsAre(0, 1));
  EXPECT_THAT(rows.Write(kKey, 3, 2), ElementsAre(3, 4));
  EXPECT_EQ(rows.Prefix(kKey), 2u);
  EXPECT_THAT(rows.Absent(kKey, 0, 6), ElementsAre(2, 5));
  EXPECT_THAT(rows.Write(kKey, 1, 2), ElementsAre(2));
  EXPECT_EQ(rows.Prefix(kKey), 5u);
  EXPECT_THAT(rows.Write(kKey, 0, 5), IsEmpty());
  EXPECT_THAT(rows.Absent(kKey, 8, 5), ElementsAre(8, 9)) << "rows end at rows_max";
}

TEST(DejavuRows, TheSourceServesHeldRowsAndPromisesOthers) {
  DejavuRows rows(10, kRowBytes);
  rows.Write(kKey, 0, 1);
  const auto held = rows.Find(RowId(kKey, 0));
  EXPECT_EQ(held.state, kv::SegmentSource::State::kReady);
  EXPECT_TRUE(RowIsRight(kKey, 0, {held.data, kRowBytes}));
  const auto promised = rows.Find(RowId(kKey, 1));
  EXPECT_EQ(promised.state, kv::SegmentSource::State::kPending);
  EXPECT_EQ(rows.Find(RowId(kKey, 10)).state, kv::SegmentSource::State::kMissing);
  EXPECT_EQ(rows.Find(kv::BlockId()).state, kv::SegmentSource::State::kMissing);
}

TEST(DejavuRows, DroppingASequenceChecksWhatCameFromPeers) {
  DejavuRows rows(10, kRowBytes);
  rows.Write(kKey, 0, 1);
  const auto buffer = rows.Open(kKey);
  FillRow(kKey, 1, buffer->row(1));
  rows.NotePulled(*buffer, 1);
  FillRow(kKey, 3, buffer->row(2));  // swapped
  rows.NotePulled(*buffer, 2);
  const DejavuRows::Dropped dropped = rows.Drop(kKey.sequence);
  EXPECT_EQ(dropped.pulled, 2u);
  EXPECT_EQ(dropped.wrong, 1u);
  EXPECT_EQ(rows.Drop(kKey.sequence).pulled, 0u);
  EXPECT_EQ(rows.Prefix(kKey), 0u);
}

TEST(DejavuSwap, BringsEachMicrobatchInBeforeItsTurn) {
  constexpr uint32_t kSequences = 4;
  DejavuRows rows(10, kRowBytes);
  for (uint32_t s = 0; s < kSequences; ++s) rows.Write({.space = 1, .sequence = s}, 0, 4);
  DejavuSwap swap(&rows, kRowBytes, 1, kSequences, int64_t{1} << 40);
  for (uint32_t step = 4; step < 10; ++step) {
    for (uint32_t s = 0; s < kSequences; ++s) {
      swap.Await(s);
      swap.BeginStep(s);
      rows.Write({.space = 1, .sequence = s}, step, 1);
    }
  }
  EXPECT_EQ(swap.wrong(), 0u) << "rows were stale or missing on the device";
}

}  // namespace
}  // namespace reprise::bench
