#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "kvstore/block/block_id.h"
#include "kvstore/block/checksum.h"
#include "kvstore/block/kv_format.h"

namespace reprise::kv {
namespace {

KvFormat SmallFormat() {
  KvFormat format;
  format.fields = {{"k", 2, 32, true}, {"v", 2, 32, false}};
  format.layers = 6;
  format.block_tokens = 16;
  return format;
}

TEST(BlockId, NamesTheWholePrefix) {
  ChainContext context{.format_digest = SmallFormat().Digest(), .block_tokens = 2};
  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5};
  const auto ids = ChainIds(context, tokens);
  ASSERT_EQ(ids.size(), 2u);
  EXPECT_EQ(ids[1], ChildId(context, ids[0], std::span(tokens).subspan(2, 2)));
  const std::vector<int32_t> other = {9, 2, 3, 4};
  EXPECT_NE(ChainIds(context, other)[1], ids[1]);
}

TEST(BlockId, DependsOnTenantFormatAndDerivation) {
  const std::vector<int32_t> tokens = {1, 2};
  ChainContext context{.format_digest = SmallFormat().Digest(), .block_tokens = 2};
  std::set<BlockId> seen = {ChildId(context, {}, tokens), ChildId(context, {}, tokens, "step:7")};
  context.tenant_salt = "blue";
  seen.insert(ChildId(context, {}, tokens));
  context.format_digest[0] ^= 1;
  seen.insert(ChildId(context, {}, tokens));
  EXPECT_EQ(seen.size(), 4u);
}

TEST(BlockId, SaysHowManyOfItsRowsAreInPromptForm) {
  const ChainContext context{.format_digest = SmallFormat().Digest(), .block_tokens = 2};
  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6};
  const auto one_form = ChainIds(context, tokens);
  EXPECT_EQ(ChainIds(context, tokens, 6), one_form) << "all of it is prompt";
  EXPECT_EQ(FormDerivation(context, 2, 4), "");
  EXPECT_EQ(FormDerivation(context, 2, 3), "step@1");
  EXPECT_EQ(FormDerivation(context, 4, 3), "step@0");
  std::set<BlockId> second;
  for (const int64_t prompt_end : {2, 3, 4}) {
    const auto ids = ChainIds(context, tokens, prompt_end);
    EXPECT_EQ(ids[0], one_form[0]) << prompt_end;
    EXPECT_NE(ids[2], one_form[2]) << prompt_end;
    second.insert(ids[1]);
  }
  EXPECT_EQ(second.size(), 3u);
  EXPECT_TRUE(second.contains(one_form[1]));
}

TEST(BlockId, TailsDifferByAttemptAndLeg) {
  std::set<BlockId> seen;
  for (const uint32_t n : {0, 1}) {
    for (const uint32_t leg : {0, 1}) {
      seen.insert(TailId({"r", {3, n}}, leg, 64));
    }
  }
  EXPECT_EQ(seen.size(), 4u);
}

TEST(BlockId, UnpacksWhatItPacksAndRefusesTheRest) {
  const std::vector<BlockId> ids = {TailId({"a", {}}, 0, 0), TailId({"b", {}}, 0, 0)};
  EXPECT_EQ(*UnpackIds(PackIds(ids), 2), ids);
  EXPECT_THAT(UnpackIds(PackIds(ids), 1).status().message(), testing::HasSubstr("limit is 1"));
  EXPECT_FALSE(UnpackIds("12345", 9).ok());
}

TEST(SegmentChecksum, BindsThePayloadToItsPlace) {
  const BlockId a = TailId({"a", {}}, 0, 0);
  const BlockId b = TailId({"b", {}}, 0, 0);
  const std::vector<uint8_t> rows(64, 7);
  std::set<uint32_t> seen;
  for (const BlockId& id : {a, b}) {
    for (const uint32_t layer : {0u, 1u, 256u}) {
      for (const int64_t position : {int64_t{0}, int64_t{64}, int64_t{1} << 40}) {
        seen.insert(SegmentChecksum(id, layer, position, rows.data(), rows.size()));
      }
    }
  }
  EXPECT_EQ(seen.size(), 18u);
}

TEST(KvFormat, CountsBytes) {
  const KvFormat format = SmallFormat();
  EXPECT_EQ(format.segment_bytes(), 2u * 2 * 32 * 16 * 2);
  EXPECT_EQ(format.block_bytes(), format.segment_bytes() * 6);
  // One latent block of 64 tokens takes 73,728 bytes a layer in bf16.
  KvFormat latent;
  latent.fields = {{"c_kv", 1, 512, false}, {"k_rope", 1, 64, true}};
  latent.layers = 1;
  EXPECT_EQ(latent.segment_bytes(), 73'728u);
  latent.fields = {Fp8MlaField()};
  latent.codec = ElementCodec::kFp8Mla;
  EXPECT_EQ(latent.row_bytes(), 656u);
  EXPECT_EQ(latent.segment_bytes(), 41'984u);
}

TEST(KvFormat, DigestNamesEveryField) {
  std::set<Digest256> seen;
  KvFormat format = SmallFormat();
  seen.insert(format.Digest());
  format.codec = ElementCodec::kF32;
  seen.insert(format.Digest());
  format.selection = "h2o";
  seen.insert(format.Digest());
  format.layer_source = {0, 0, 1, 1, 2, 2};
  seen.insert(format.Digest());
  format.numerics_class[5] = 1;
  seen.insert(format.Digest());
  format.fields[0].heads = 1;
  seen.insert(format.Digest());
  EXPECT_EQ(seen.size(), 6u);
}

TEST(KvFormat, ReadsItsOwnText) {
  KvFormat format = SmallFormat();
  format.selection = "h2o";
  format.layer_source = {0, 0, 1};
  format.model_fingerprint[31] = 9;
  const auto read = ParseFormat(format.CanonicalText());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->Digest(), format.Digest());
  EXPECT_EQ(read->block_bytes(), format.block_bytes());
  EXPECT_THAT(ParseFormat(format.CanonicalText() + " color=red").status().message(),
              testing::HasSubstr("color=red"));
  EXPECT_FALSE(ParseFormat("").ok());
  EXPECT_FALSE(ParseFormat("reprise.kv.v1").ok());
}

TEST(KvFormat, RefusesImpossibleSizesByName) {
  KvFormat format = SmallFormat();
  format.layers = 0;
  EXPECT_THAT(ValidateFormat(format).message(), testing::HasSubstr("0 layers"));
  format = SmallFormat();
  format.block_tokens = 100'000;
  EXPECT_THAT(ValidateFormat(format).message(), testing::HasSubstr("100000 tokens"));
}

TEST(KvFormat, RowsInFp8AreLatentsOfOneShape) {
  KvFormat format = SmallFormat();
  format.codec = ElementCodec::kFp8Mla;
  EXPECT_EQ(ValidateFormat(format).message(),
            "KV codec fp8_e4m3_mla has rows of one field, c_kv+k_rope:1x656:rotated (a latent of "
            "512 and 64 rotated values), the format's are k:2x32:rotated v:2x32");
  EXPECT_FALSE(ParseFormat(format.CanonicalText()).ok());
  format.fields = {Fp8MlaField()};
  const auto read = ParseFormat(format.CanonicalText());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->codec, ElementCodec::kFp8Mla);
  EXPECT_EQ(read->Digest(), format.Digest());
  format.fields[0].elements = 655;
  EXPECT_FALSE(ValidateFormat(format).ok());
}

}  // namespace
}  // namespace reprise::kv
