#include "worker/parallel/group_shape.h"

#include <gtest/gtest.h>

namespace reprise::parallel {
namespace {

TEST(GroupShape, ReadsWhatItWrites) {
  for (const char* text : {"", "tp2", "pp2,tp2", "cp3", "pp2,cp3,tp4"}) {
    const auto shape = ParseGroupShape(text);
    ASSERT_TRUE(shape.ok()) << shape.status();
    EXPECT_EQ(*ParseGroupShape(GroupShapeText(*shape)), *shape);
  }
  EXPECT_EQ(GroupShapeText(*ParseGroupShape("tp2,pp3")), "pp3,cp1,tp2");
}

TEST(GroupShape, RefusesByName) {
  for (const char* text : {"tp", "tp0", "tp-1", "xp2", "2", "tp2x", "tp99999999999", "pp2 tp2"}) {
    EXPECT_EQ(ParseGroupShape(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_EQ(ParseGroupShape("tp3").status().message(), "tensor degree 3 is not one of 1, 2, 4, 8");
  EXPECT_EQ(ParseGroupShape("pp32,cp4").status().message(),
            "a group of 128 ranks, the limit is 64");
}

}  // namespace
}  // namespace reprise::parallel
