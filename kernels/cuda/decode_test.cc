// Decoding against double, and bit for bit against itself under other plans, batches and schedules.
#include "kernels/cuda/decode_test_util.h"

namespace reprise::cuda {
namespace {

using Dims = testing::DecodeDims;
using Batch = testing::DecodeBatch;

class CudaDecode : public testing::OnDevice {};

const Dims kLite = {true, 512, 64, 16, 1};   // DeepSeek-V2-Lite's attention
const Dims kShared = {true, 512, 64, 6, 1};  // fewer heads than a product has columns
const Dims kWide = {true, 512, 64, 32, 1};
const Dims kGrouped = {false, 128, 128, 8, 2};
const Dims kSmall = {false, 64, 64, 24, 2};
const Dims kFp8Lite = {true, 512, 64, 16, 1, true};
const Dims kFp8Few = {true, 512, 64, 6, 1, true};
const Dims kFp8Many = {true, 512, 64, 32, 1, true};

TEST_F(CudaDecode, AgreesWithDouble) {
  uint32_t seed = 1;
  for (const Dims& dims : {kLite, kShared, kWide, kGrouped, kSmall, kFp8Lite, kFp8Few, kFp8Many}) {
    const Batch batch(dims, {1, 0, 63, 64, 65, 255, 300}, seed);
    UseSeed(seed++);
    batch.Check(batch.Run(batch.AllRows(), 3));
  }
}

TEST_F(CudaDecode, LongRowsAreSharedByWorkers) {
  const Batch latent(kLite, {1300, 40}, 11);
  latent.Check(latent.Run(latent.AllRows(), 5));
  const Batch fp8(kFp8Lite, {1300, 40}, 13);
  fp8.Check(fp8.Run(fp8.AllRows(), 5));
  const Batch grouped(kGrouped, {2800, 513, 256}, 12);
  grouped.Check(grouped.Run(grouped.AllRows(), 9));
}

TEST_F(CudaDecode, BitsDoNotDependOnThePlanTheBatchOrTheSchedule) {
  for (const Dims& dims : {kLite, kGrouped, kFp8Lite}) {
    const Batch batch(dims, {1800, 257, 31}, 21);
    const Batch::Result want = batch.Run(batch.AllRows(), 1);
    for (const int workers : {2, 3, 5, 16}) {
      UseSeed(static_cast<uint64_t>(workers));
      EXPECT_EQ(batch.Run(batch.AllRows(), workers), want) << workers;
    }
    const Batch::Result alone = batch.Run({0}, 4);
    EXPECT_TRUE(std::equal(alone.out.begin(), alone.out.end(), want.out.begin()));
    const Batch::Result reversed = batch.Run({2, 1, 0}, 3);
    EXPECT_TRUE(std::equal(alone.out.begin(), alone.out.end(),
                           reversed.out.begin() + static_cast<int64_t>(2 * batch.out_row())));
  }
}

TEST_F(CudaDecode, PartsAreWhatRowsRound) {
  for (const Dims& dims : {kLite, kGrouped, kSmall, kFp8Few}) {
    const Batch batch(dims, {1300, 0, 257, 31}, 25);
    for (const int workers : {1, 5}) {
      EXPECT_EQ(batch.RunParts(workers), batch.Run(batch.AllRows(), workers)) << workers;
    }
  }
}

// ---- rows that share keys ----

std::vector<int32_t> RowsFrom(int32_t first, int32_t end) {
  std::vector<int32_t> rows(static_cast<size_t>(end - first));
  std::iota(rows.begin(), rows.end(), first);
  return rows;
}

// `rows` rows that share so many leaves: their tails are of all lengths, and some have none.
Batch SharingBatch(const Dims& dims, int rows, int leaves, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> keys;
  for (int r = 0; r < rows; ++r) {
    const auto tail = static_cast<int32_t>(r % 3 == 1 ? 0 : 1 + random() % 150);
    keys.push_back(leaves * kStepLeaf + tail);
  }
  return {dims, keys, seed, {{RowsFrom(0, rows), leaves}}};
}

// Every number of columns, filled and not: a product has 32 of them, and rows have 1, 4, 8, 12 or
// 16 heads a key head.
TEST_F(CudaDecode, SharedRowsHaveTheBitsOfRowsAlone) {
  struct Case {
    Dims dims;
    int rows;
    int leaves;
    int workers;
  };
  uint32_t seed = 50;
  for (const auto& [dims, rows, leaves, workers] :
       {Case{{false, 64, 64, 1, 1}, 20, 1, 4}, Case{{false, 64, 64, 8, 2}, 11, 2, 7},
        Case{{false, 128, 128, 8, 2}, 9, 1, 5}, Case{{false, 128, 128, 8, 1}, 5, 3, 9},
        Case{{false, 64, 64, 12, 1}, 3, 1, 2}, Case{{false, 128, 128, 16, 1}, 2, 2, 3}}) {
    SCOPED_TRACE(::testing::Message() << dims.q_heads << " heads, " << rows << " rows");
    const Batch batch = SharingBatch(dims, rows, leaves, seed);
    UseSeed(seed++);
    const Batch::Result want = batch.Run(batch.AllRows(), workers);
    EXPECT_EQ(batch.RunShared(workers), want);
    EXPECT_EQ(batch.RunParts(workers, true), want);
    batch.Check(want);
  }
}

// Groups beside each other, rows of them mixed, rows that are in none, a row without keys; leaves
// of a group divided among many workers.
TEST_F(CudaDecode, GroupsOfRowsMayStandAmongOthers) {
  const int32_t leaf = kStepLeaf;
  const Batch batch({false, 64, 64, 8, 2},
                    {2 * leaf + 70, 5 * leaf, 0, 3 * leaf + 1, 5 * leaf + 300, 130, 2 * leaf + 5,
                     2 * leaf, 5 * leaf + 64},
                    70, {{{0, 6, 7}, 2}, {{4, 1, 8}, 5}});
  const Batch::Result want = batch.Run(batch.AllRows(), 3);
  batch.Check(want);
  for (const int workers : {1, 2, 7, 40}) {
    UseSeed(static_cast<uint64_t>(workers));
    EXPECT_EQ(batch.RunShared(workers), want) << workers;
  }
}

TEST_F(CudaDecode, SaysWhatItCanShare) {
  const auto sharing = [](const Dims& dims) {
    DecodeArgs args;
    args.latent = dims.latent;
    args.first_dim = dims.first;
    args.second_dim = dims.second;
    args.q_heads = dims.q_heads;
    args.kv_heads = dims.kv_heads;
    args.fp8 = dims.fp8;
    return DecodeSharingOf(args);
  };
  EXPECT_EQ(sharing({false, 128, 128, 32, 8}).rows, 8);
  EXPECT_EQ(sharing({false, 128, 128, 32, 8}).node_slots, 4);
  EXPECT_EQ(sharing({false, 64, 64, 12, 1}).rows, 2);
  EXPECT_EQ(sharing({false, 64, 64, 12, 1}).node_slots, 2);
  for (const Dims& dims : {Dims{false, 64, 64, 17, 1}, kLite, kFp8Lite, Dims{true, 512, 64, 64, 1},
                           Dims{false, 96, 96, 4, 1}}) {
    EXPECT_EQ(sharing(dims).rows, 1);
  }
  DecodeArgs latents;
  latents.latent = true;
  latents.first_dim = 512;
  latents.second_dim = 64;
  latents.q_heads = 16;
  latents.plan.shared = true;
  EXPECT_EQ(Decode(latents, nullptr), kErrorInvalidValue);
  latents.q_heads = 128;
  EXPECT_EQ(Decode(latents, nullptr), kErrorInvalidValue);
}

// Those who widen may run ahead of those who add up, or wait for them.
TEST_F(CudaDecode, WarpgroupsOfAnySpeedGiveTheSameBits) {
  const Batch batch(kFp8Few, {260, 330, 260, 200, 512, 260}, 31);
  const Batch::Result want = batch.Run(batch.AllRows(), 6);
  batch.Check(want);
  for (uint64_t seed = 100; seed < 110; ++seed) {
    UseSeed(seed);
    EXPECT_EQ(batch.Run(batch.AllRows(), 6), want) << seed;
  }
}

TEST_F(CudaDecode, RefusesShapesWithoutAKernel) {
  DecodeArgs args;
  args.first_dim = 96;
  args.second_dim = 96;
  args.q_heads = 4;
  EXPECT_FALSE(DecodeServes(args));
  EXPECT_EQ(Decode(args, nullptr), kErrorInvalidValue);
  args.first_dim = args.second_dim = 128;
  EXPECT_TRUE(DecodeServes(args));
  args.q_heads = 64;
  EXPECT_FALSE(DecodeServes(args));
  args.q_heads = 16;
  args.fp8 = true;
  EXPECT_FALSE(DecodeServes(args)) << "heads have no rows in fp8";
  args.latent = true;
  args.first_dim = 512;
  args.second_dim = 64;
  EXPECT_TRUE(DecodeServes(args));
  args.q_heads = 64;
  EXPECT_FALSE(DecodeServes(args));
}

}  // namespace
}  // namespace reprise::cuda
