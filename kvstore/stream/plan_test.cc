#include "kvstore/stream/plan.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <tuple>
#include <vector>

namespace reprise::kv {
namespace {

struct Shape {
  uint32_t layers;
  uint32_t heads;
};

KvFormat FormatOf(const Shape& shape) {
  KvFormat format;
  format.fields = {{.name = "k", .heads = shape.heads, .elements = 8}};
  format.layers = shape.layers;
  return format;
}

bool Holds(const KvPart& part, uint32_t layer, uint32_t head) {
  return part.Contains(KvPart{{layer, layer + 1}, {head, head + 1}});
}

std::vector<GroupSplit> Splits() {
  std::vector<GroupSplit> splits;
  for (const uint32_t tensor : {1u, 2u, 4u}) {
    for (const uint32_t pipeline : {1u, 2u, 4u}) {
      for (const uint32_t context : {1u, 2u, 4u}) {
        splits.push_back({.pipeline = pipeline, .tensor = tensor, .context = context});
      }
    }
  }
  return splits;
}

class PlanTest : public testing::TestWithParam<Shape> {};

TEST_P(PlanTest, EverySplitToEverySplitBringsEveryLayerAndHeadOnceToWhoHoldsIt) {
  const KvFormat format = FormatOf(GetParam());
  // (receiver, sending context rank, layer, head) -> how often; and what leaves the senders.
  using Place = std::tuple<uint32_t, uint32_t, uint32_t, uint32_t>;
  for (const GroupSplit& from : Splits()) {
    for (const GroupSplit& to : Splits()) {
      SCOPED_TRACE(testing::Message() << from.tensor << from.pipeline << from.context << " -> "
                                      << to.tensor << to.pipeline << to.context);
      const auto plan = PlanStream(format, from, to);
      ASSERT_TRUE(plan.ok()) << plan.status();
      std::map<Place, int> received, left;
      for (const StreamTransfer& transfer : *plan) {
        const KvPart holds = PartOfRank(format, transfer.hand_on ? to : from, transfer.from);
        EXPECT_TRUE(holds.Contains(transfer.part)) << transfer.part.ToString();
        if (transfer.hand_on) {
          EXPECT_EQ(PlaceOf(to, transfer.from).context, PlaceOf(to, transfer.to).context);
          EXPECT_EQ(PlaceOf(to, transfer.from).tensor % HeadReplicas(format, to), 0u);
        } else {
          EXPECT_EQ(PlaceOf(from, transfer.from).context, transfer.context);
        }
        for (uint32_t layer = 0; layer < format.layers; ++layer) {
          for (uint32_t head = 0; head < PartHeads(format); ++head) {
            if (!Holds(transfer.part, layer, head)) continue;
            // Handed on: whichever context rank of the senders it came from.
            for (uint32_t context = 0; context < from.context; ++context) {
              if (!transfer.hand_on && context != transfer.context) continue;
              ++received[{transfer.to, context, layer, head}];
            }
            if (!transfer.hand_on) {
              ++left[{PlaceOf(to, transfer.to).context, transfer.context, layer, head}];
            }
          }
        }
      }
      for (uint32_t rank = 0; rank < to.ranks(); ++rank) {
        for (uint32_t context = 0; context < from.context; ++context) {
          for (uint32_t layer = 0; layer < format.layers; ++layer) {
            for (uint32_t head = 0; head < PartHeads(format); ++head) {
              EXPECT_EQ((received[{rank, context, layer, head}]),
                        Holds(PartOfRank(format, to, rank), layer, head) ? 1 : 0)
                  << "rank " << rank << " layer " << layer << " head " << head;
            }
          }
        }
      }
      for (const auto& [place, times] : left) EXPECT_EQ(times, 1) << "left the senders again";
      if (HasFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, PlanTest,
                         testing::Values(Shape{4, 4}, Shape{7, 8}, Shape{5, 1}, Shape{6, 2}),
                         [](const auto& info) {
                           return "Layers" + std::to_string(info.param.layers) + "Heads" +
                                  std::to_string(info.param.heads);
                         });

TEST(PlanStreamTest, ReceiversAreSpreadOverSendersThatHoldTheSame) {
  const auto plan = PlanStream(FormatOf({2, 1}), {.tensor = 2}, {.pipeline = 2});
  ASSERT_TRUE(plan.ok());
  ASSERT_EQ(plan->size(), 2u);
  EXPECT_NE((*plan)[0].from, (*plan)[1].from);
}

TEST(PlanStreamTest, RefusesSplitsThatDoNotFit) {
  EXPECT_FALSE(PlanStream(FormatOf({4, 4}), {.pipeline = 5}, {}).ok());
  EXPECT_FALSE(PlanStream(FormatOf({4, 4}), {.tensor = 3}, {}).ok());
  EXPECT_FALSE(PlanStream(FormatOf({4, 4}), {}, {.tensor = 0}).ok());
}

}  // namespace
}  // namespace reprise::kv
