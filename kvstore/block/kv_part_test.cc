#include "kvstore/block/kv_part.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "kvstore/block/group_split.h"

namespace reprise::kv {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

KvFormat Format(std::vector<RowField> fields, uint32_t layers = 4) {
  KvFormat format;
  format.fields = std::move(fields);
  format.layers = layers;
  format.block_tokens = 2;
  return format;
}

TEST(KvPartTest, HeadsAreCutWhereAllFieldsHaveAsMany) {
  EXPECT_EQ(PartHeads(Format({{"k", 4, 8}, {"v", 4, 8}})), 4u);
  EXPECT_EQ(PartHeads(Format({{"k", 4, 8}, {"scale", 1, 2}})), 1u);
  EXPECT_EQ(PartHeads(Format({{"c_kv", 1, 8}, {"k_rope", 1, 2}})), 1u);
  EXPECT_EQ(PartHeads(Format({{"k", 4, 8}, {"v", 2, 8}})), 1u);
}

TEST(KvPartTest, APartIsAFormatWithFewerHeadsAndLayers) {
  const KvFormat format = Format({{"k", 4, 8}, {"v", 4, 2}});
  const KvFormat part = FormatOfPart(format, {{1, 3}, {2, 4}});
  EXPECT_EQ(part.layers, 2u);
  EXPECT_EQ(part.fields[0].heads, 2u);
  EXPECT_EQ(part.fields[1].heads, 2u);
  EXPECT_EQ(FormatOfPart(format, WholePart(format)).CanonicalText(), format.CanonicalText());
}

TEST(KvPartTest, PartsOutsideTheFormatAreRefusedByName) {
  const KvFormat format = Format({{"k", 4, 8}});
  EXPECT_TRUE(CheckPart(format, {{0, 4}, {0, 4}}).ok());
  EXPECT_TRUE(CheckPart(format, {{3, 4}, {3, 4}}).ok());
  EXPECT_FALSE(CheckPart(format, {{0, 5}, {0, 4}}).ok());
  EXPECT_FALSE(CheckPart(format, {{2, 2}, {0, 4}}).ok());
  EXPECT_FALSE(CheckPart(format, {{0, 4}, {3, 2}}).ok());
  EXPECT_THAT(CheckPart(format, {{0, 4}, {0, 5}}).ToString(),
              HasSubstr("layers [0, 4) heads [0, 5) is not one of layers [0, 4) heads [0, 4)"));
}

auto StripAt(size_t at, size_t bytes) {
  return testing::AllOf(testing::Field(&PartView::Strip::at, at),
                        testing::Field(&PartView::Strip::bytes, bytes));
}

TEST(KvPartTest, AViewNamesTheStripsOfAPartInALargerOne) {
  const KvFormat format = Format({{"k", 4, 8}, {"v", 4, 4}});
  const size_t k = size_t{8} * 2 * 2, v = size_t{4} * 2 * 2;  // bytes of a head
  const KvPart whole = WholePart(format);
  const PartView all(format, whole, whole);
  EXPECT_TRUE(all.direct());
  EXPECT_THAT(all.strips(), ElementsAre(StripAt(0, format.segment_bytes())));

  const PartView cut(format, {{1, 4}, {1, 4}}, {{2, 3}, {2, 3}});
  EXPECT_FALSE(cut.direct());
  EXPECT_EQ(cut.outer_segment_bytes(), 3 * k + 3 * v);
  EXPECT_EQ(cut.segment_bytes(), k + v);
  EXPECT_THAT(cut.strips(), ElementsAre(StripAt(k, k), StripAt(3 * k + v, v)));
  EXPECT_EQ(cut.SegmentAt(2), cut.outer_segment_bytes());

  const KvFormat latents = Format({{"c_kv", 1, 8}, {"k_rope", 1, 2}});
  EXPECT_TRUE(PartView(latents, WholePart(latents), {{1, 2}, {0, 1}}).direct());
  const PartView layers(format, {{0, 4}, {1, 2}}, {{3, 4}, {1, 2}});
  EXPECT_TRUE(layers.direct());
}

TEST(GroupSplitTest, PlacesAndRanksAreInverse) {
  const GroupSplit split{.pipeline = 2, .tensor = 3, .context = 4};
  for (uint32_t rank = 0; rank < split.ranks(); ++rank) {
    EXPECT_EQ(RankAt(split, PlaceOf(split, rank)), rank);
  }
  EXPECT_EQ(PlaceOf(split, 1).tensor, 1u) << "tensor ranks are neighbours";
}

TEST(GroupSplitTest, StripesGoToTheContextRanksThereAndBack) {
  std::vector<uint32_t> owners;
  for (int64_t stripe = 0; stripe < 9; ++stripe) {
    owners.push_back(ContextOwner(4, 2, stripe * 1024));
    EXPECT_EQ(ContextOwner(4, 2, stripe * 1024 + 1023), owners.back());
  }
  EXPECT_THAT(owners, ElementsAre(0, 1, 2, 3, 3, 2, 1, 0, 0));
  EXPECT_EQ(ContextOwner(1, 1, 12345), 0u);
}

TEST(GroupSplitTest, LaterStagesTakeTheRemainder) {
  const KvFormat format = Format({{"k", 1, 8}}, 7);
  std::vector<uint32_t> begins;
  for (uint32_t rank = 0; rank < 4; ++rank) {
    begins.push_back(PartOfRank(format, {.pipeline = 4}, rank).layers.begin);
  }
  EXPECT_THAT(begins, ElementsAre(0, 1, 3, 5));
}

TEST(GroupSplitTest, EveryLayerAndHeadBelongsToAsManyRanks) {
  const KvFormat format = Format({{"k", 2, 8}, {"v", 2, 8}}, 7);
  for (const uint32_t tensor : {1u, 2u, 4u}) {
    for (const uint32_t pipeline : {1u, 2u, 4u}) {
      const GroupSplit split{.pipeline = pipeline, .tensor = tensor, .context = 2};
      ASSERT_TRUE(CheckSplit(format, split).ok());
      std::map<std::pair<uint32_t, uint32_t>, uint32_t> holders;
      for (uint32_t rank = 0; rank < split.ranks(); ++rank) {
        const KvPart part = PartOfRank(format, split, rank);
        for (uint32_t layer = part.layers.begin; layer < part.layers.end; ++layer) {
          for (uint32_t head = part.heads.begin; head < part.heads.end; ++head) {
            ++holders[{layer, head}];
          }
        }
      }
      EXPECT_EQ(holders.size(), 14u);
      for (const auto& [at, n] : holders) EXPECT_EQ(n, 2 * HeadReplicas(format, split));
    }
  }
}

TEST(GroupSplitTest, SplitsThatDoNotFitAreRefusedByName) {
  const KvFormat format = Format({{"k", 4, 8}});
  const auto refusal = [&](const GroupSplit& split) {
    return CheckSplit(format, split).ToString();
  };
  EXPECT_THAT(refusal({.pipeline = 5}), HasSubstr("5 pipeline stages for 4 layers"));
  EXPECT_THAT(refusal({.tensor = 3}), HasSubstr("3 tensor ranks for 4 KV heads"));
  EXPECT_THAT(refusal({.context = 0}), HasSubstr("limit is 1 to 64"));
  EXPECT_THAT(refusal({.pipeline = 4, .tensor = 4, .context = 8}), HasSubstr("limit is 1 to 64"));
  EXPECT_THAT(refusal({.pipeline = UINT32_MAX}), HasSubstr("limit is 1 to 64"));
  EXPECT_THAT(refusal({.context = 2, .stripe_leaves = 0}), HasSubstr("do not fill stripes"));
  KvFormat odd = format;
  odd.block_tokens = 24;
  EXPECT_THAT(CheckSplit(odd, {.context = 2}).ToString(), HasSubstr("blocks of 24 tokens"));
  EXPECT_TRUE(CheckSplit(odd, {.context = 1}).ok());
}

TEST(GroupSplitTest, RanksAreCheckedWithoutAFormat) {
  EXPECT_TRUE(CheckRanks({.pipeline = 4, .tensor = 8, .context = 2}).ok());
  EXPECT_THAT(CheckRanks({.pipeline = 4, .tensor = 8, .context = 3}).ToString(),
              HasSubstr("a group of 4 x 3 x 8 ranks, the limit is 1 to 64"));
  EXPECT_FALSE(CheckRanks({.tensor = 0}).ok());
  EXPECT_FALSE(CheckRanks({.pipeline = 1u << 16, .context = 1u << 16}).ok());  // overflows to 0
}

}  // namespace
}  // namespace reprise::kv
