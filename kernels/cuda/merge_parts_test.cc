// Lists and trees of partial results against double, and against themselves: the same joins in
// other company give the same bits.
#include "kernels/cuda/merge_parts.h"

#include <cmath>

#include "kernels/cuda/rows_test_util.h"

namespace reprise::cuda {
namespace {

using testing::Array;
using testing::SameNumbers;

constexpr float kInf = kernels::testing::kInf;

struct Shape {
  int64_t rows;
  int heads, dim;
  int64_t outs() const { return rows * heads * dim; }
  int64_t lses() const { return rows * heads; }
};

// A partial result on both sides.
struct Part {
  Part(const Shape& s, uint32_t stream)
      : out(kernels::testing::Uniform(s.outs(), stream)),
        lse2(kernels::testing::Uniform(s.lses(), stream + 500, 12)) {
    for (size_t i = stream % 5; i < lse2.size(); i += 5) lse2[i] = -kInf;
    Send();
  }
  Part(std::vector<float> out, std::vector<float> lse2)
      : out(std::move(out)), lse2(std::move(lse2)) {
    Send();
  }
  void Send() {
    device_out.emplace_back(out);
    device_lse2.emplace_back(lse2);
  }
  MergePart on_device() const { return {device_out[0].data(), device_lse2[0].data()}; }

  std::vector<float> out, lse2;
  std::vector<Array<float>> device_out, device_lse2;  // of one
};

std::vector<Part> Parts(const Shape& s, int count, uint32_t stream) {
  std::vector<Part> parts;
  for (int i = 0; i < count; ++i) parts.emplace_back(s, stream + static_cast<uint32_t>(i));
  return parts;
}

class CudaMergeParts : public testing::OnDevice {
 protected:
  static Part Merge(const Shape& s, const std::vector<const Part*>& parts, bool tree,
                    int64_t first_index = 0) {
    const Array<float> out(static_cast<size_t>(s.outs()));
    const Array<float> lse2(static_cast<size_t>(s.lses()));
    MergePartsArgs args;
    args.count = static_cast<int>(parts.size());
    for (int i = 0; i < args.count; ++i) args.parts[i] = parts[static_cast<size_t>(i)]->on_device();
    args.tree = tree;
    args.first_index = first_index;
    args.rows = s.rows;
    args.heads = s.heads;
    args.dim = s.dim;
    args.out_stride = int64_t{s.heads} * s.dim;
    args.lse_stride = s.heads;
    args.out = {out.data(), args.out_stride, false};
    args.lse2 = lse2.data();
    EXPECT_EQ(MergeParts(args, nullptr), 0);
    return Part(out.Read(), lse2.Read());
  }
  static std::vector<const Part*> Range(const std::vector<Part>& parts, size_t begin, size_t end) {
    std::vector<const Part*> range;
    for (size_t i = begin; i < end; ++i) range.push_back(&parts[i]);
    return range;
  }
  static void ExpectSame(const Part& got, const Part& want) {
    EXPECT_TRUE(SameNumbers(got.out, want.out));
    EXPECT_TRUE(SameNumbers(got.lse2, want.lse2));
  }
};

// A join errs by the weights' 2^-22 from exp2, as much from their log, the rounding of exponents up
// to 24 and a few more: 2^-19 of the largest value (which is 1) covers one, and they add up.
TEST_F(CudaMergeParts, AgreeWithDouble) {
  for (const Shape& s : {Shape{3, 2, 64}, Shape{1, 1, 5}, Shape{7, 3, 128}, Shape{0, 1, 64}}) {
    for (const int count : {1, 2, 3, 8, 13, 64}) {
      for (const bool tree : {false, true}) {
        UseSeed(static_cast<uint64_t>(count));
        const std::vector<Part> parts = Parts(s, count, 40 * static_cast<uint32_t>(count));
        const Part got = Merge(s, Range(parts, 0, parts.size()), tree);
        for (int64_t i = 0; i < s.outs(); ++i) {
          const auto head = static_cast<size_t>(i / s.dim);
          double sum = 0;
          double value = 0;
          for (const Part& p : parts) {
            const double weight = std::exp2(static_cast<double>(p.lse2[head]));
            sum += weight;
            value += weight * static_cast<double>(p.out[static_cast<size_t>(i)]);
          }
          if (sum == 0) {
            EXPECT_EQ(got.lse2[head], -kInf);
            continue;
          }
          const double bound = count * 0x1p-19;
          ASSERT_NEAR(got.out[static_cast<size_t>(i)], value / sum, bound) << count << " parts";
          ASSERT_NEAR(got.lse2[head], std::log2(sum), bound * 4) << count << " parts";
        }
      }
    }
  }
}

TEST_F(CudaMergeParts, ATreeIsATreeOfItsSubtrees) {
  const Shape s = {2, 2, 32};
  const std::vector<Part> parts = Parts(s, 7, 9);
  const Part low = Merge(s, Range(parts, 0, 4), true);
  const Part high = Merge(s, Range(parts, 4, 7), true, 4);
  ExpectSame(Merge(s, Range(parts, 0, 7), true), Merge(s, {&low, &high}, false));
  const Part pair = Merge(s, Range(parts, 4, 6), false);
  ExpectSame(high, Merge(s, {&pair, &parts[6]}, false));
}

TEST_F(CudaMergeParts, ATreeStandsWhereItsIndicesSay) {
  const Shape s = {2, 1, 16};
  const std::vector<Part> parts = Parts(s, 5, 30);
  // 3, then 4 to 7; the same before a far higher boundary.
  const Part four = Merge(s, Range(parts, 1, 5), true, 4);
  const Part want = Merge(s, {&parts[0], &four}, false);
  for (const int64_t first : {int64_t{3}, int64_t{127}, (int64_t{1} << 40) - 1}) {
    ExpectSame(Merge(s, Range(parts, 0, 5), true, first), want);
  }
}

TEST_F(CudaMergeParts, AListJoinsInItsOrder) {
  const Shape s = {2, 2, 24};
  const std::vector<Part> parts = Parts(s, 3, 60);
  const Part two = Merge(s, Range(parts, 0, 2), false);
  ExpectSame(Merge(s, Range(parts, 0, 3), false), Merge(s, {&two, &parts[2]}, false));
}

TEST_F(CudaMergeParts, WhatSawNothingChangesNoBit) {
  const Shape s = {3, 2, 64};
  const Part some(s, 4);
  Part none(s, 5);
  none = Part(none.out, std::vector<float>(none.lse2.size(), -kInf));
  for (const bool tree : {false, true}) {
    const Part got = Merge(s, {&none, &some, &none}, tree);
    for (size_t i = 0; i < some.out.size(); ++i) {
      if (some.lse2[i / 64] > -kInf) ASSERT_EQ(got.out[i], some.out[i]);
    }
    EXPECT_TRUE(SameNumbers(got.lse2, some.lse2));
  }
}

TEST_F(CudaMergeParts, ResultsMayBeBf16) {
  const Shape s = {2, 2, 12};
  const Part a(s, 70);
  const Part b(s, 71);
  const testing::TestRows out(2, 24, true, 8);
  MergePartsArgs args;
  args.parts[0] = a.on_device();
  args.parts[1] = b.on_device();
  args.count = 2;
  args.rows = s.rows;
  args.heads = s.heads;
  args.dim = s.dim;
  args.out_stride = 24;
  args.lse_stride = 2;
  args.out = out.out();
  ASSERT_EQ(MergeParts(args, nullptr), 0);
  EXPECT_TRUE(SameNumbers(out.Read(), out.AsStored(Merge(s, {&a, &b}, false).out)));
}

TEST_F(CudaMergeParts, LimitsAreRefused) {
  MergePartsArgs args;
  EXPECT_EQ(MergeParts(args, nullptr), kErrorInvalidValue);
  args.count = kMergePartsMax + 1;
  EXPECT_EQ(MergeParts(args, nullptr), kErrorInvalidValue);
}

}  // namespace
}  // namespace reprise::cuda
