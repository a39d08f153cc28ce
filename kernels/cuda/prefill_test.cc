// Prefill attention on Hopper: against double, and equal to the bit whatever stands beside a row.
#include <string>

#include "common/half.h"
#include "kernels/cuda/merge_parts.h"
#include "kernels/cuda/numerics.h"
#include "kernels/cuda/prefill_test_util.h"

namespace reprise::cuda::testing {
namespace {

class CudaPrefill : public OnDevice {
 protected:
  void SetUp() override {
    OnDevice::SetUp();
    if (device().major != 9) GTEST_SKIP() << "needs compute capability 9.0";
  }
};

int OnHopper(const PrefillArgs& args) { return Prefill(args, nullptr); }

// ---- against double ----

void CheckRagged(const TestShape& shape, bool ping_pong, bool bf16, uint32_t seed) {
  PrefillBatch batch(shape, seed, 48);
  RaggedRuns ragged(&batch);
  PrefillArgs args = batch.Args();
  args.ping_pong = ping_pong;
  args.out_bf16 = bf16;
  const TestResult got = batch.Attend(ragged.runs, args, OnHopper);
  ragged.Check(args, got);
}

TEST_F(CudaPrefill, RaggedBatchesOfSmallHeads) {
  for (uint32_t seed = 1; seed <= 3; ++seed) {
    UseSeed(seed);
    CheckRagged({64, 64, 2, 1}, seed % 2 == 0, false, seed);
  }
}
TEST_F(CudaPrefill, RaggedBatchesOfGroupedHeads) {
  UseSeed(5);
  CheckRagged({128, 128, 2, 2}, true, true, 11);
}
TEST_F(CudaPrefill, RaggedBatchesOfExpandedLatents) {
  UseSeed(7);
  CheckRagged({192, 128, 1, 1}, false, false, 21);
}

// Keys of another rank: behind the rows, before them, and in between; with and without a mask.
TEST_F(CudaPrefill, RowsSeeWhatTheirMaskLetsThem) {
  UseSeed(3);
  PrefillBatch batch({64, 64, 1, 1}, 31, 16);
  const size_t sequence = batch.AddSequence(200, 256);
  std::vector<PrefillRun> runs;
  for (const int32_t position : {0, 200, 256, 300, 1000}) {
    for (const bool causal : {true, false}) {
      runs.push_back(batch.Run(sequence, batch.AddQueries(100), 100, position, 0, 200, causal));
    }
  }
  const PrefillArgs args = batch.Args();
  const TestResult got = batch.Attend(runs, args, OnHopper);
  for (const PrefillRun& run : runs) batch.Check(run, sequence, args, got);
}

// ---- to the bit ----

TEST_F(CudaPrefill, ChunksBatchesAndTurnsChangeNoBit) {
  constexpr int32_t kKeys = 300;
  PrefillBatch batch({64, 64, 2, 1}, 41, 32);
  const size_t sequence = batch.AddSequence(kKeys);
  const int32_t rows = batch.AddQueries(kKeys);
  const size_t other = batch.AddSequence(150);
  const int32_t other_rows = batch.AddQueries(150);
  PrefillArgs args = batch.Args();
  UseSeed(1);
  const TestResult whole = batch.Attend(
      {batch.Run(sequence, rows, kKeys, 0, 0, kKeys), batch.Run(other, other_rows, 150, 0, 0, 150)},
      args, OnHopper);
  for (uint64_t seed = 2; seed <= 5; ++seed) {
    UseSeed(seed);
    args.ping_pong = seed % 2 == 0;
    args.processors = static_cast<int>(seed);
    std::vector<PrefillRun> chunks = {batch.Run(other, other_rows + 20, 130, 20, 0, 150),
                                      batch.Run(other, other_rows, 20, 0, 0, 20)};
    for (const auto& [begin, end] :
         {std::pair(0, 1), std::pair(1, 64), std::pair(64, 193), std::pair(193, kKeys)}) {
      // As when it was cached up to there, or later.
      const int32_t cached = seed % 2 == 0 ? end : kKeys;
      chunks.push_back(batch.Run(sequence, rows + begin, end - begin, begin, 0, cached));
    }
    std::rotate(chunks.begin(), chunks.begin() + static_cast<int64_t>(seed), chunks.end());
    ExpectSameBits(batch.Attend(chunks, args, OnHopper), whole);
  }
  args.out_bf16 = true;
  const TestResult rounded = batch.Attend(
      {batch.Run(sequence, rows, kKeys, 0, 0, kKeys), batch.Run(other, other_rows, 150, 0, 0, 150)},
      args, OnHopper);
  for (size_t i = 0; i < whole.out.size(); ++i) {
    ASSERT_EQ(rounded.out_bf16[i], F32ToBf16(whole.out[i])) << i;
  }
}

// The other shapes, under more schedules.
TEST_F(CudaPrefill, SchedulesChangeNoBit) {
  for (const TestShape& shape : {TestShape{128, 128, 2, 1}, TestShape{192, 128, 1, 1}}) {
    PrefillBatch batch(shape, 42, 16);
    const size_t sequence = batch.AddSequence(290);
    const int32_t rows = batch.AddQueries(200);
    PrefillArgs args = batch.Args();
    args.processors = 2;
    UseSeed(10);
    const TestResult whole =
        batch.Attend({batch.Run(sequence, rows, 200, 90, 0, 290)}, args, OnHopper);
    for (uint64_t seed = 11; seed < 17; ++seed) {
      UseSeed(seed);
      args.ping_pong = seed % 2 == 0;
      ExpectSameBits(batch.Attend({batch.Run(sequence, rows, 30, 90, 0, 290),
                                   batch.Run(sequence, rows + 30, 170, 120, 0, 290)},
                                  args, OnHopper),
                     whole);
    }
  }
}

TEST_F(CudaPrefill, LeavesJoinByTheirPositionsAlone) {
  constexpr int32_t kKeys = 3 * kPromptLeaf + 70;
  PrefillBatch batch({64, 64, 1, 1}, 51, 256);
  const size_t sequence = batch.AddSequence(kKeys);
  const int32_t first = batch.AddQueries(kKeys % 128 + 10);
  const int32_t rows = kKeys % 128 + 10;  // the tile's rows see three leaves, or four
  const PrefillArgs args = batch.Args();
  UseSeed(1);
  const PrefillRun all = batch.Run(sequence, first, rows, kKeys - rows, 0, kKeys);
  const TestResult whole = batch.Attend({all}, args, OnHopper);
  batch.Check(all, sequence, args, whole);

  UseSeed(2);
  const TestResult alone =
      batch.Attend({batch.Run(sequence, first, 3, all.first_position, 0, kKeys),
                    batch.Run(sequence, first + 3, rows - 3, all.first_position + 3, 0, kKeys)},
                   args, OnHopper);
  ExpectSameBits(alone, whole);

  constexpr int32_t kCut = 2 * kPromptLeaf;
  const auto part = [&](int32_t begin, int32_t end) {
    return batch.Attend({batch.Run(sequence, first, rows, all.first_position, begin, end)}, args,
                        OnHopper);
  };
  const TestResult left = part(0, kCut);
  const TestResult right = part(kCut, kKeys);
  const Array<float> left_out(left.out);
  const Array<float> left_lse2(left.lse2);
  const Array<float> right_out(right.out);
  const Array<float> right_lse2(right.lse2);
  const Array<float> lse2(right.lse2.size());
  ASSERT_EQ(MergeParts({.parts = {{left_out.data(), left_lse2.data()},
                                  {right_out.data(), right_lse2.data()}},
                        .count = 2,
                        .rows = rows,
                        .heads = 1,
                        .dim = 64,
                        .out_stride = 64,
                        .lse_stride = 1,
                        .out = {left_out.data(), 64, false},
                        .lse2 = lse2.data()},
                       nullptr),
            0);
  std::vector<float> lse = lse2.Read();
  for (float& x : lse) x *= kLn2;
  ExpectSameBits({left_out.Read(), {}, lse, lse2.Read()}, whole);
}

// ---- refusals ----

TEST_F(CudaPrefill, RefusesWhatItCannotDo) {
  PrefillBatch batch({64, 64, 1, 1}, 61, 4);
  const size_t sequence = batch.AddSequence(10);
  const PrefillRun run = batch.Run(sequence, batch.AddQueries(2), 2, 8, 0, 10);
  const auto with = [&](auto change) {
    PrefillArgs args = batch.Args();
    batch.Attend({run}, args, [&](PrefillArgs a) {
      change(a);
      EXPECT_EQ(Prefill(a, nullptr), kErrorInvalidValue);
      return 0;
    });
  };
  with([](PrefillArgs& a) { a.pool.first_dim = 128; });
  with([](PrefillArgs& a) { a.scale = 0; });
  with([](PrefillArgs& a) { a.q_stride = 4; });
  with([](PrefillArgs& a) { a.pool.kv_heads = 2; });
  with([](PrefillArgs& a) { a.leaves_max = 2; });  // without scratch
}

}  // namespace
}  // namespace reprise::cuda::testing
