// The plain kernel against double, and equal to the bit in whatever batch a row stands.
#include "kernels/cuda/prefill_simple.h"

#include "kernels/cuda/prefill_test_util.h"

namespace reprise::cuda::testing {
namespace {

class CudaPrefillSimple : public OnDevice {};

int Simple(const PrefillArgs& args) { return PrefillSimple(args, false, nullptr); }

TEST_F(CudaPrefillSimple, RaggedBatchesAreRight) {
  for (const TestShape& shape : {TestShape{64, 64, 2, 1}, TestShape{192, 128, 1, 1},
                                 TestShape{128, 128, 2, 2}, TestShape{24, 40, 2, 1}}) {
    UseSeed(1);
    PrefillBatch batch(shape, 71, 48);
    RaggedRuns ragged(&batch);
    PrefillArgs args = batch.Args();
    args.out_bf16 = shape.kv_heads == 2;
    ragged.Check(args, batch.Attend(ragged.runs, args, Simple));
  }
}

TEST_F(CudaPrefillSimple, LatentsAreKeysAndValues) {
  PrefillBatch batch({576, 512, 3, 1, true}, 73, 8);
  const size_t sequence = batch.AddSequence(150);
  const PrefillRun run = batch.Run(sequence, batch.AddQueries(4), 4, 146, 0, 150);
  const PrefillArgs args = batch.Args();
  batch.Check(run, sequence, args, batch.Attend({run}, args, [](const PrefillArgs& a) {
    return PrefillSimple(a, true, nullptr);
  }));
}

TEST_F(CudaPrefillSimple, LatentsMayBeInFp8) {
  PrefillBatch batch({576, 512, 3, 1, true, true}, 74, 8);
  const size_t sequence = batch.AddSequence(150);
  const PrefillRun run = batch.Run(sequence, batch.AddQueries(4), 4, 146, 0, 150);
  const PrefillArgs args = batch.Args();
  batch.Check(run, sequence, args, batch.Attend({run}, args, [](const PrefillArgs& a) {
    return PrefillSimple(a, true, nullptr);
  }));
  batch.Attend({run}, args, [](const PrefillArgs& a) {
    EXPECT_EQ(PrefillSimple(a, false, nullptr), kErrorInvalidValue) << "heads in fp8";
    return 0;
  });
}

TEST_F(CudaPrefillSimple, ChunksChangeNoBit) {
  PrefillBatch batch({64, 64, 1, 1}, 72, 128);
  const size_t sequence = batch.AddSequence(4200);
  const int32_t rows = batch.AddQueries(30);
  const PrefillArgs args = batch.Args();
  const PrefillRun all = batch.Run(sequence, rows, 30, 4085, 0, 4115);
  const TestResult whole = batch.Attend({all}, args, Simple);
  batch.Check(all, sequence, args, whole);
  UseSeed(9);
  ExpectSameBits(batch.Attend({batch.Run(sequence, rows + 11, 19, 4096, 0, 4200),
                               batch.Run(sequence, rows, 11, 4085, 0, 4096)},
                              args, Simple),
                 whole);
}

}  // namespace
}  // namespace reprise::cuda::testing
