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
