#include "kvstore/block/kv_convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "common/half.h"

namespace reprise::kv {
namespace {

using ::testing::HasSubstr;

TEST(KvConvertTest, EveryBf16AndF16SurvivesTheWayThroughF32) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float b = Bf16ToF32(half);
    const bool denormal = (half & 0x7F80) == 0;
    if (std::isnan(b)) {
      EXPECT_TRUE(std::isnan(Bf16ToF32(F32ToBf16(b))));
    } else {
      EXPECT_EQ(F32ToBf16(b), denormal ? half & 0x8000 : half) << bits;
    }
    const float f = F16ToF32(half);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(f))));
    } else {
      EXPECT_EQ(F32ToF16(f), half) << bits;
    }
  }
}

TEST(KvConvertTest, WhatDoesNotFitIsRoundedToTheNearestEven) {
  const auto f32 = [](uint32_t bits) { return std::bit_cast<float>(bits); };
  EXPECT_EQ(F32ToBf16(f32(0x3F808000)), 0x3F80) << "tie, down to even";
  EXPECT_EQ(F32ToBf16(f32(0x3F818000)), 0x3F82) << "tie, up to even";
  EXPECT_EQ(F32ToBf16(f32(0x3F808001)), 0x3F81);
  EXPECT_EQ(F32ToBf16(f32(0x7F7FFFFF)), 0x7F80) << "to infinity";
  EXPECT_EQ(F32ToBf16(f32(0x7F800001)), 0x7FC0) << "NaN stays NaN, quiet";
  EXPECT_EQ(F32ToBf16(f32(0x807FFFFF)), 0x8000) << "denormals become zero";
  EXPECT_EQ(F32ToF16(65519.0F), 0x7BFF);
  EXPECT_EQ(F32ToF16(65520.0F), 0x7C00);
  EXPECT_EQ(F32ToF16(0x1p-24F), 0x0001);
  EXPECT_EQ(F32ToF16(0x1p-25F), 0x0000) << "tie, down to even";
  EXPECT_EQ(F32ToF16(0x1.8p-24F), 0x0002) << "tie, up to even";
  EXPECT_EQ(F32ToF16(-0x1p-14F), 0x8400);
  EXPECT_EQ(F32ToF16(f32(0x3F801000)), 0x3C00) << "tie, down to even";
  EXPECT_EQ(F32ToF16(f32(0x3F803000)), 0x3C02) << "tie, up to even";
}

TEST(KvConvertTest, OpaqueElementsAreConvertedToNothing) {
  using enum ElementCodec;
  for (const ElementCodec codec : {kF32, kBF16, kF16, kOpaque8, kFp8Mla}) {
    EXPECT_TRUE(Convertible(codec, codec));
    EXPECT_EQ(Convertible(codec, kFp8Mla), codec == kFp8Mla);
    EXPECT_EQ(Convertible(kFp8Mla, codec), codec == kFp8Mla);
    EXPECT_EQ(Convertible(codec, kOpaque8), codec == kOpaque8);
    EXPECT_EQ(Convertible(kOpaque8, codec), codec == kOpaque8);
  }
  EXPECT_TRUE(Convertible(kF32, kF16));
  EXPECT_TRUE(Convertible(kF16, kBF16));
}

TEST(KvConvertTest, RowsMoveBetweenPagesOfOtherSizes) {
  KvFormat from;
  from.fields = {{"k", 2, 3}, {"v", 1, 2}};
  from.layers = 1;
  from.block_tokens = 4;
  from.codec = ElementCodec::kOpaque8;
  KvFormat to = from;
  to.block_tokens = 2;
  std::vector<uint8_t> source(from.segment_bytes());
  for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<uint8_t>(i);
  std::vector<uint8_t> page(to.segment_bytes(), 0xFF);
  ConvertRows(from, source.data(), to, page.data(), {.from_row = 3, .to_row = 1, .rows = 1});
  EXPECT_THAT(page, testing::ElementsAre(0xFF, 0xFF, 0xFF, 9, 10, 11,   // k, head 0
                                         0xFF, 0xFF, 0xFF, 21, 22, 23,  // k, head 1
                                         0xFF, 0xFF, 30, 31));
}

TEST(KvConvertTest, FormatsThatMeanOtherRowsAreRefusedWithBothNamed) {
  KvFormat ours;
  ours.fields = {{"k", 2, 3}};
  ours.layers = 1;
  EXPECT_TRUE(CheckExchange(ours, ours, false).ok());
  KvFormat theirs = ours;
  theirs.block_tokens = 16;
  EXPECT_TRUE(CheckExchange(ours, theirs, false).ok()) << "pages are cut without loss";
  theirs.codec = ElementCodec::kF32;
  EXPECT_TRUE(CheckExchange(ours, theirs, true).ok());
  EXPECT_THAT(CheckExchange(ours, theirs, false).ToString(),
              HasSubstr("from f32 to bf16 is not allowed here"));
  theirs.selection = "snapkv";
  const Status refused = CheckExchange(ours, theirs, true);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.ToString(), HasSubstr(ours.CanonicalText()));
  EXPECT_THAT(refused.ToString(), HasSubstr(theirs.CanonicalText()));
}

TEST(KvConvertTest, RowsInFp8AreExchangedWithTheirLikeOnly) {
  KvFormat latents;
  latents.fields = {{"c_kv", 1, 512, false}, {"k_rope", 1, 64, true}};
  latents.layers = 2;
  KvFormat fp8 = latents;
  fp8.fields = {Fp8MlaField()};
  fp8.codec = ElementCodec::kFp8Mla;
  EXPECT_TRUE(CheckExchange(fp8, fp8, false).ok());
  KvFormat small_pages = fp8;
  small_pages.block_tokens = 16;
  EXPECT_TRUE(CheckExchange(fp8, small_pages, false).ok());
  for (const bool convert : {false, true}) {
    for (const bool swapped : {false, true}) {
      const Status refused =
          CheckExchange(swapped ? latents : fp8, swapped ? fp8 : latents, convert);
      EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_THAT(refused.ToString(), HasSubstr("codec=bf16"));
      EXPECT_THAT(refused.ToString(), HasSubstr("codec=fp8_e4m3_mla"));
    }
  }
}

}  // namespace
}  // namespace reprise::kv
