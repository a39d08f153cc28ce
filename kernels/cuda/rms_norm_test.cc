// The kernel against the CPU's bits and against double. Without a card the launch itself must
// report that, which shows that the object is linked and its launcher runs.
#include "kernels/cuda/rms_norm.h"

#include "kernels/cuda/rms_norm_on_host.h"
#include "kernels/ref/ref.h"
#include "kernels/test_util.h"

namespace reprise::kernels {
namespace {

using namespace testing;

constexpr int kInsufficientDriver = 35;
constexpr int kNoDevice = 100;

bool NoCard(int error) { return error == kInsufficientDriver || error == kNoDevice; }

TEST(CudaRmsNorm, GivesTheBitsOfTheCpu) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (int64_t cols : {1, 15, 64, 768, 1000}) {
      constexpr int64_t kRows = 37;
      const Stored x = StoreAs(dtype, Uniform(kRows * cols, 1, 3));
      const std::vector<float> weight = Uniform(cols, 2);
      std::vector<std::byte> y(x.bytes.size(), std::byte{0xFF});
      const RepriseCudaRmsNorm args = {x.bytes.data(), weight.data(), y.data(),
                                       kRows,          cols,          cols,
                                       cols,           1e-5f,         dtype == DType::kBF16};
      const int error = reprise_cuda_rms_norm_on_host(&args);
      if (NoCard(error)) {
        EXPECT_TRUE(NoCard(reprise_cuda_rms_norm(&args, nullptr)));
        GTEST_SKIP() << "no CUDA device on this machine (cudaError " << error << ")";
      }
      ASSERT_EQ(error, 0);
      std::vector<float> cpu(static_cast<size_t>(kRows * cols));
      Select(BestIsa()).rms_norm({}, {x.values.data(), kRows, cols, cols}, weight.data(), 1e-5f,
                                 {cpu.data(), kRows, cols, cols});
      EXPECT_EQ(y, StoreAs(dtype, cpu).bytes) << "cols " << cols;
      const ref::Vec want = ref::RmsNorm(ToDouble(x.values), ToDouble(weight), 1e-5);
      for (size_t i = 0; i < cpu.size(); ++i) {
        // As in rows_test.cc.
        ASSERT_NEAR(cpu[i], want[i],
                    std::abs(want[i]) * 0x1p-24 * (static_cast<double>(cols) / 32 + 10));
      }
    }
  }
}

}  // namespace
}  // namespace reprise::kernels
