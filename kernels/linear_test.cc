// The linear layer: against double, and equal to the bit whatever the instruction set, batch and
// threads.
#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/denormals.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/packed_weights.h"
#include "kernels/ref/ref.h"
#include "kernels/test_util.h"

namespace reprise::kernels {
namespace {

using namespace testing;

struct Case {
  int64_t m, n, k;
  DType dtype;
  int k_slices;
};

struct Problem {
  explicit Problem(const Case& c)
      : c(c),
        x(Uniform(c.m * c.k, 1)),
        w(StoreAs(c.dtype, Uniform(c.n * c.k, 2))),
        bias(Uniform(c.n, 3)),
        residual(Uniform(c.m * c.n, 4)) {
    // One byte off any alignment, as in a memory-mapped file.
    shifted.resize(w.bytes.size() + 1);
    std::memcpy(shifted.data() + 1, w.bytes.data(), w.bytes.size());
    packed = PackedWeights::Pack(ConstMatrix{shifted.data() + 1, c.dtype, c.n, c.k, c.k});
  }

  // Rows [from, from + rows) computed by one call.
  std::vector<float> Run(Isa isa, ThreadPool* pool, int64_t from, int64_t rows) const {
    std::vector<float> y(static_cast<size_t>(rows * c.n), kNaN);
    TestScratch scratch(LinearScratchBytes(rows, packed));
    LinearArgs args;
    args.x = {x.data() + from * c.k, rows, c.k, c.k};
    args.weights = &packed;
    args.bias = bias.data();
    args.residual = {residual.data() + from * c.n, rows, c.n, c.n};
    args.k_slices = c.k_slices;
    args.y = {y.data(), rows, c.n, c.n};
    Select(isa).linear(scratch.With(pool), args);
    return y;
  }

  Case c;
  std::vector<float> x;
  Stored w;
  std::vector<float> bias, residual;
  std::vector<std::byte> shifted;
  PackedWeights packed;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (int slices : {1, 8}) {
      cases.push_back({1, 1, 1, dtype, slices});
      cases.push_back({5, 9, 33, dtype, slices});
      cases.push_back({7, 40, 257, dtype, slices});
      cases.push_back({4, 64, 768, dtype, slices});
      cases.push_back({50, 19, 100, dtype, slices});
    }
  }
  return cases;
}

TEST(Linear, AgreesWithDouble) {
  for (const Case& c : Cases()) {
    const Problem p(c);
    std::vector<float> x = p.x;
    if (c.dtype == DType::kBF16) x = StoreAs(DType::kBF16, x).values;
    const ref::Vec want = ref::Linear(ToDouble(x), ToDouble(p.w.values), {c.m, c.n, c.k});
    for (Isa isa : Isas()) {
      const std::vector<float> y = p.Run(isa, nullptr, 0, c.m);
      for (int64_t i = 0; i < c.m * c.n; ++i) {
        // |x|, |w| <= 1: a lane adds at most k/16 + 1 products of magnitude 1, each step rounding a
        // sum below k by half an ulp; the trees, bias and residual add at most 10 more roundings.
        const double bound =
            0x1p-24 * (static_cast<double>(c.k) / 8 + 12) * (static_cast<double>(c.k) + 2);
        ASSERT_NEAR(y[i], want[i] + p.bias[i % c.n] + p.residual[i], bound)
            << IsaName(isa) << " m=" << c.m << " n=" << c.n << " k=" << c.k;
      }
    }
  }
}

TEST(Linear, BitsDoNotDependOnInstructionSetBatchOrThreads) {
  ThreadPool pool(3);
  for (const Case& c : Cases()) {
    const Problem p(c);
    const std::vector<float> want = p.Run(Isa::kScalar, nullptr, 0, c.m);
    for (Isa isa : Isas()) {
      EXPECT_TRUE(SameBits(p.Run(isa, nullptr, 0, c.m), want)) << IsaName(isa);
      EXPECT_TRUE(SameBits(p.Run(isa, &pool, 0, c.m), want)) << IsaName(isa);
      for (int64_t batch = 1; batch <= 8; ++batch) {
        std::vector<float> joined;
        for (int64_t from = 0; from < c.m; from += batch) {
          const auto part = p.Run(isa, nullptr, from, std::min(batch, c.m - from));
          joined.insert(joined.end(), part.begin(), part.end());
        }
        EXPECT_TRUE(SameBits(joined, want)) << IsaName(isa) << " batch " << batch;
      }
    }
  }
}

TEST(Linear, ConcatenatedPartsGiveTheirOwnBits) {
  const std::vector<float> x = Uniform(3 * 70, 1);
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const int64_t rows[] = {5, 16, 3};
    std::vector<Stored> stored;
    std::vector<ConstMatrix> parts;
    std::vector<std::vector<float>> want;
    for (uint32_t i = 0; i < 3; ++i) {
      stored.push_back(StoreAs(dtype, Uniform(rows[i] * 75, 20 + i)));
    }
    const auto run = [&](const PackedWeights& w) {
      std::vector<float> y(static_cast<size_t>(3 * w.n()), kNaN);
      TestScratch scratch(LinearScratchBytes(3, w));
      LinearArgs args;
      args.x = {x.data(), 3, 70, 70};
      args.weights = &w;
      args.y = {y.data(), 3, w.n(), w.n()};
      Select(BestIsa()).linear(scratch.With(nullptr), args);
      return y;
    };
    for (int i = 0; i < 3; ++i) {
      parts.push_back({stored[i].bytes.data(), dtype, rows[i], 70, 75});
      want.push_back(run(PackedWeights::Pack(parts.back())));
    }
    const std::vector<float> fused = run(PackedWeights::Pack(parts));
    for (int64_t r = 0; r < 3; ++r) {
      int64_t column = 0;
      for (int i = 0; i < 3; ++i) {
        for (int64_t n = 0; n < rows[i]; ++n, ++column) {
          ASSERT_EQ(fused[r * 24 + column], want[i][r * rows[i] + n]);
        }
      }
    }
  }
}

// What `ranks` ranks would compute: each its share of the slices, joined by the tree of eight.
std::vector<float> SplitOver(int ranks, const Problem& p, Isa isa) {
  const Case& c = p.c;
  const int64_t rank_k = SliceK(c.k) * kRowParallelSlices / ranks;
  std::vector<std::vector<float>> sums;
  for (int rank = 0; rank < ranks; ++rank) {
    const int64_t first = rank * rank_k;
    const int64_t k = std::min(rank_k, c.k - first);
    const auto element = static_cast<size_t>(SizeOf(c.dtype));
    const PackedWeights part = PackedWeights::Pack(ConstMatrix{
        p.shifted.data() + 1 + static_cast<size_t>(first) * element, c.dtype, c.n, k, c.k});
    sums.emplace_back(static_cast<size_t>(c.m * c.n), kNaN);
    TestScratch scratch(LinearScratchBytes(c.m, part));
    LinearArgs args;
    args.x = {p.x.data() + first, c.m, k, c.k};
    args.weights = &part;
    args.k_slices = kRowParallelSlices / ranks;
    args.slice_k = SliceK(c.k);
    args.y = {sums.back().data(), c.m, c.n, c.n};
    Select(isa).linear(scratch.With(nullptr), args);
  }
  const DenormalsOff denormals_off;
  for (size_t stride = 1; stride < sums.size(); stride *= 2) {
    for (size_t left = 0; left < sums.size(); left += 2 * stride) {
      for (size_t i = 0; i < sums[left].size(); ++i) sums[left][i] += sums[left + stride][i];
    }
  }
  const F32 y{sums[0].data(), c.m, c.n, c.n};
  TestScratch scratch(0);
  Select(isa).add(scratch.With(nullptr), {y, p.bias.data(), {p.residual.data(), c.m, c.n, c.n}, y});
  return sums[0];
}

TEST(Linear, RowParallelLayersSplitOverRanksHaveTheSameBits) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    // Every rank has elements; the last slice is a short one.
    const Case c{5, 19, 8 * 96 - 7, dtype, kRowParallelSlices};
    const Problem p(c);
    for (Isa isa : Isas()) {
      const std::vector<float> want = p.Run(isa, nullptr, 0, c.m);
      for (int ranks : {1, 2, 4, 8}) {
        EXPECT_TRUE(SameBits(SplitOver(ranks, p, isa), want)) << IsaName(isa) << " " << ranks;
      }
    }
  }
}

// A pair of bf16 numbers: of like magnitude in most cases, of any magnitude in some, tiny in
// others, so that products or sums are denormal.
uint32_t RandomPair(uint64_t i, uint32_t stream) {
  const auto bits = static_cast<uint32_t>(UniformAt(5, stream, i) * 4294967296.0);
  const double kind = UniformAt(6, 0, i);
  if (kind < 0.2) return bits & 0x9FFF9FFFu;
  if (kind < 0.4) return bits & 0xBFFFBFFFu;  // keeps exponents away from overflow
  return (bits & 0x83FF83FFu) + 0x3C003C00u;  // 2^-7 .. 2^1
}

__attribute__((target("avx512f,avx512bf16"))) void HardwareDot(const float* acc, const uint32_t* a,
                                                               const uint32_t* b, float* out) {
  _mm512_storeu_ps(out, _mm512_dpbf16_ps(_mm512_loadu_ps(acc), (__m512bh)_mm512_loadu_si512(a),
                                         (__m512bh)_mm512_loadu_si512(b)));
}

TEST(Linear, TheDotInstructionIsTwoFusedStepsOddThenEven) {
  if (!Supported(Isa::kAvx512)) GTEST_SKIP() << "needs a CPU with AVX512_BF16";
  const DenormalsOff denormals_off;
  int64_t order_matters = 0;
  for (uint64_t i = 0; i < 100'000; i += 16) {
    uint32_t a[16];
    uint32_t b[16];
    float acc[16];
    float got[16];
    for (uint64_t l = 0; l < 16; ++l) {
      a[l] = RandomPair(i + l, 1);
      b[l] = RandomPair(i + l, 2);
      const uint32_t c = RandomPair(i + l, 3);
      std::memcpy(&acc[l], &c, 4);
    }
    HardwareDot(acc, a, b, got);
    for (int l = 0; l < 16; ++l) {
      const auto half = [](uint32_t pair, int which) {
        return Bf16ToF32(static_cast<uint16_t>(pair >> (16 * which)));
      };
      const float odd = std::fma(half(a[l], 1), half(b[l], 1), acc[l]);
      const float want = std::fma(half(a[l], 0), half(b[l], 0), odd);
      ASSERT_TRUE(SameBits({got[l]}, {want})) << "case " << i + l;
      const float even = std::fma(half(a[l], 0), half(b[l], 0), acc[l]);
      order_matters += std::fma(half(a[l], 1), half(b[l], 1), even) != want ? 1 : 0;
    }
  }
  EXPECT_GT(order_matters, 1000);  // so the test would notice the other order
}

TEST(Linear, DenormalsVanishOnEveryInstructionSet) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<float> x = {1e-20f, 1e-39f, 1.0f, 3e-38f};
    const Stored w = StoreAs(DType::kF32, {1e-20f, 1.0f, 1e-39f, 0.25f});
    std::vector<uint16_t> half(4);
    // bf16 weights may hold denormals in a file; conversion would not make one.
    for (int i = 0; i < 4; ++i)
      half[i] = static_cast<uint16_t>(__builtin_bit_cast(uint32_t, w.values[i]) >> 16);
    const void* data =
        dtype == DType::kF32 ? static_cast<const void*>(w.bytes.data()) : half.data();
    const PackedWeights packed = PackedWeights::Pack(ConstMatrix{data, dtype, 1, 4, 4});
    for (Isa isa : Isas()) {
      float y = kNaN;
      TestScratch scratch(LinearScratchBytes(1, packed));
      LinearArgs args;
      args.x = {x.data(), 1, 4, 4};
      args.weights = &packed;
      args.y = {&y, 1, 1, 1};
      const unsigned mode = _mm_getcsr();
      Select(isa).linear(scratch.With(nullptr), args);
      EXPECT_EQ(y, 0.0f) << IsaName(isa);  // every product is denormal or has a denormal factor
      EXPECT_EQ(_mm_getcsr() & 0x8040u, mode & 0x8040u) << "the caller's mode is its own";
    }
  }
}

}  // namespace
}  // namespace reprise::kernels
