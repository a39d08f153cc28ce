// The linear layer: against double, and equal to the bit whatever the instruction set, batch and
// threads.
#include <immintrin.h>

#include "kernels/cpu/denormals.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/packed_weights.h"
#include "kernels/ref/ref.h"
#include "kernels/test_util.h"

namespace reprise::kernels {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

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

}  // namespace
}  // namespace reprise::kernels
