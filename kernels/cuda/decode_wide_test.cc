// Decoding latents for many heads: against double, and bit for bit against itself under other
// plans, batches and schedules.
#include "kernels/cuda/decode_wide.h"

#include "kernels/cuda/decode_test_util.h"

namespace reprise::cuda::testing {
namespace {

class CudaDecodeWide : public OnDevice {};

const DecodeDims kOneBlock = {true, 512, 64, 64, 1};
const DecodeDims kTwoBlocks = {true, 512, 64, 128, 1};  // DeepSeek-V3's attention
const DecodeDims kPadded = {true, 512, 64, 40, 1};

TEST_F(CudaDecodeWide, AgreesWithDouble) {
  uint32_t seed = 1;
  for (const DecodeDims& dims : {kOneBlock, kTwoBlocks, kPadded}) {
    const DecodeBatch batch(dims, {1, 0, 63, 64, 65, 127, 128, 129, 255, 300}, seed);
    UseSeed(seed++);
    batch.Check(batch.Run(batch.AllRows(), 3));
  }
}

TEST_F(CudaDecodeWide, LongRowsAreSharedByWorkers) {
  const DecodeBatch batch(kOneBlock, {1500, 257, 40}, 11);
  UseSeed(3);
  batch.Check(batch.Run(batch.AllRows(), 5));
}

TEST_F(CudaDecodeWide, BitsDoNotDependOnThePlanTheBatchOrTheSchedule) {
  const DecodeBatch batch(kPadded, {1800, 257, 31}, 21);
  const DecodeBatch::Result want = batch.Run(batch.AllRows(), 1);
  for (const int workers : {2, 3, 16}) {
    UseSeed(static_cast<uint64_t>(workers));
    EXPECT_TRUE(batch.Run(batch.AllRows(), workers) == want) << workers;
  }
  const DecodeBatch::Result alone = batch.Run({0}, 4);
  EXPECT_TRUE(std::equal(alone.out.begin(), alone.out.end(), want.out.begin()));
  const DecodeBatch::Result reversed = batch.Run({2, 1, 0}, 3);
  EXPECT_TRUE(std::equal(alone.out.begin(), alone.out.end(),
                         reversed.out.begin() + static_cast<int64_t>(2 * batch.out_row())));
}

TEST_F(CudaDecodeWide, PartsAreWhatRowsRound) {
  const DecodeBatch batch(kPadded, {1300, 0, 257, 31}, 25);
  for (const int workers : {1, 5}) {
    EXPECT_TRUE(batch.RunParts(workers) == batch.Run(batch.AllRows(), workers)) << workers;
  }
}

// Leaves of one tile and of several, one after the other.
TEST_F(CudaDecodeWide, BitsDoNotDependOnWhichHalfIsFaster) {
  const DecodeBatch batch(kOneBlock, {257, 300, 513, 70}, 31);
  UseSeed(100);
  const DecodeBatch::Result want = batch.Run(batch.AllRows(), 1);
  batch.Check(want);
  for (uint64_t seed = 101; seed < 111; ++seed) {
    UseSeed(seed);
    EXPECT_TRUE(batch.Run(batch.AllRows(), 1) == want) << seed;
  }
}

TEST_F(CudaDecodeWide, ServesLatentsOfUpTo128Heads) {
  DecodeArgs args;
  args.latent = true;
  args.first_dim = 512;
  args.second_dim = 64;
  args.q_heads = 128;
  EXPECT_TRUE(DecodeServes(args));
  EXPECT_EQ(DecodeWorkers(args, 132), 66);
  args.q_heads = 129;
  EXPECT_FALSE(DecodeServes(args));
  EXPECT_EQ(DecodeWide(args, nullptr), kErrorInvalidValue);
}

}  // namespace
}  // namespace reprise::cuda::testing
