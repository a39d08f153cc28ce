#include "kvstore/stream/pack.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/crc32c.h"
#include "kvstore/stream/pack_test_blocks.h"
#include "kvstore/stream/plan.h"

namespace reprise::kv {
namespace {

TEST(PackTest, PacksRowsFieldByFieldAndHeadByHead) {
  const KvFormat format = GqaFormat();
  const std::vector<uint8_t> segment = Numbered(format.segment_bytes());
  const RowRange range{.first_row = 5, .rows = 2};
  std::vector<uint8_t> packed(2 * format.row_bytes());
  const auto crc = Gather(format, segment, range, packed);
  ASSERT_TRUE(crc.ok()) << crc.status();
  EXPECT_EQ(*crc, Crc32c(packed.data(), packed.size()));
  size_t at = 0;
  for (size_t row = 5; row < 7; ++row) {
    for (size_t field = 0; field < 2; ++field) {
      for (size_t head = 0; head < 3; ++head) {
        for (size_t byte = 0; byte < 16; ++byte, ++at) {
          ASSERT_EQ(packed[at], segment[((field * 3 + head) * 16 + row) * 16 + byte]);
        }
      }
    }
  }
}

TEST(PackTest, ScatterUndoesGatherAndLeavesOtherRowsAlone) {
  for (const KvFormat& format : {GqaFormat(), MlaFormat()}) {
    const std::vector<uint8_t> segment = Numbered(format.segment_bytes());
    std::vector<uint8_t> rebuilt(segment.size(), 0);
    for (uint32_t row = 0; row < format.block_tokens; ++row) {
      std::vector<uint8_t> packed(format.row_bytes());
      const auto sent = Gather(format, segment, {row, 1}, packed, 99);
      const auto received = Scatter(format, packed, {row, 1}, rebuilt, 99);
      ASSERT_TRUE(sent.ok() && received.ok());
      EXPECT_EQ(*sent, *received);
      EXPECT_EQ(rebuilt == segment, row + 1 == format.block_tokens) << row;
    }
  }
}

TEST(PackTest, RefusesWhatDoesNotFit) {
  const KvFormat format = GqaFormat();
  std::vector<uint8_t> segment(format.segment_bytes());
  std::vector<uint8_t> packed(2 * format.row_bytes());
  EXPECT_FALSE(Gather(format, segment, {15, 2}, packed).ok());
  EXPECT_FALSE(Gather(format, segment, {UINT32_MAX, 2}, packed).ok());
  EXPECT_FALSE(Gather(format, segment, {0, 1}, packed).ok());
  segment.pop_back();
  EXPECT_FALSE(Scatter(format, packed, {0, 2}, segment).ok());
}

class PlanTest : public testing::TestWithParam<StreamShape> {};

TEST_P(PlanTest, EverySplitToEverySplitCoversEveryLayerAndHeadOnce) {
  const StreamShape shape = GetParam();
  const std::vector<uint32_t> sizes = {1, 2, 4};
  for (uint32_t from_tp : sizes) {
    for (uint32_t from_pp : sizes) {
      for (uint32_t to_tp : sizes) {
        for (uint32_t to_pp : sizes) {
          const GroupSplit from{from_pp, from_tp};
          const GroupSplit to{to_pp, to_tp};
          const auto plan = PlanStream(shape, from, to);
          ASSERT_TRUE(plan.ok()) << plan.status();
          // A rank that streams to itself names what it holds: the reference for both sides.
          const auto held = [&](const GroupSplit& split, uint32_t rank, uint32_t layer,
                                uint32_t head) {
            const uint32_t stage = rank / split.tensor;
            uint32_t begin = 0;
            for (uint32_t s = 0; s < stage; ++s) {
              begin += (shape.layers + split.pipeline - 1 - s) / split.pipeline;
            }
            const uint32_t n = (shape.layers + split.pipeline - 1 - stage) / split.pipeline;
            const uint32_t tensor_rank = rank % split.tensor;
            return layer >= begin && layer < begin + n &&
                   head * split.tensor / shape.heads <= tensor_rank &&
                   tensor_rank * shape.heads / split.tensor <= head &&
                   (split.tensor <= shape.heads ||
                    tensor_rank / (split.tensor / shape.heads) == head);
          };
          for (uint32_t rank = 0; rank < to_tp * to_pp; ++rank) {
            for (uint32_t layer = 0; layer < shape.layers; ++layer) {
              for (uint32_t head = 0; head < shape.heads; ++head) {
                int times = 0;
                for (const StreamTransfer& t : *plan) {
                  const bool covers = t.to == rank && t.layers.begin <= layer &&
                                      layer < t.layers.end && t.heads.begin <= head &&
                                      head < t.heads.end;
                  if (!covers) continue;
                  ++times;
                  EXPECT_TRUE(held(from, t.from, layer, head))
                      << "rank " << t.from << " layer " << layer << " head " << head;
                }
                EXPECT_EQ(times, held(to, rank, layer, head) ? 1 : 0)
                    << "tp " << from_tp << "->" << to_tp << " pp " << from_pp << "->" << to_pp
                    << " rank " << rank << " layer " << layer << " head " << head;
              }
            }
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, PlanTest,
                         testing::Values(StreamShape{4, 4}, StreamShape{7, 8}, StreamShape{5, 1},
                                         StreamShape{6, 2}),
                         [](const auto& info) {
                           return "Layers" + std::to_string(info.param.layers) + "Heads" +
                                  std::to_string(info.param.heads);
                         });

TEST(PlanStreamTest, ReplicatedHeadsAreSentByAllTheirHolders) {
  const auto plan = PlanStream({1, 1}, {1, 2}, {1, 2});
  ASSERT_TRUE(plan.ok());
  ASSERT_EQ(plan->size(), 2u);
  EXPECT_NE((*plan)[0].from, (*plan)[1].from);
}

TEST(PlanStreamTest, RefusesSplitsThatDoNotFit) {
  EXPECT_FALSE(PlanStream({4, 4}, {5, 1}, {1, 1}).ok());
  EXPECT_FALSE(PlanStream({4, 4}, {1, 3}, {1, 1}).ok());
  EXPECT_FALSE(PlanStream({4, 4}, {1, 1}, {0, 1}).ok());
  EXPECT_FALSE(PlanStream({4, 0}, {1, 1}, {1, 1}).ok());
}

}  // namespace
}  // namespace reprise::kv
