// The kernel against the CPU's bits and against double.
#include "kernels/cuda/rms_norm.h"

#include "kernels/cuda/test_device.h"
#include "kernels/ref/ref.h"
#include "kernels/test_util.h"

namespace reprise::kernels {
namespace {

using namespace testing;

class CudaRmsNorm : public cuda::testing::OnDevice {};

TEST_F(CudaRmsNorm, GivesTheBitsOfTheCpu) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (int64_t cols : {1, 15, 64, 768, 1000}) {
      constexpr int64_t kRows = 37;
      const Stored x = StoreAs(dtype, Uniform(kRows * cols, 1, 3));
      const std::vector<float> weight = Uniform(cols, 2);
      const cuda::testing::Array<std::byte> device_x(x.bytes);
      const cuda::testing::Array<float> device_weight(weight);
      const cuda::testing::Array<std::byte> y(x.bytes.size());
      const bool bf16 = dtype == DType::kBF16;
      ASSERT_EQ(cuda::RmsNorm({.x = device_x.data(),
                               .weight = device_weight.data(),
                               .y = y.data(),
                               .rows = kRows,
                               .cols = cols,
                               .x_stride = cols,
                               .y_stride = cols,
                               .eps = 1e-5F,
                               .x_bf16 = bf16,
                               .y_bf16 = bf16},
                              nullptr),
                0);
      std::vector<float> cpu(static_cast<size_t>(kRows * cols));
      Select(BestIsa()).rms_norm({}, {x.values.data(), kRows, cols, cols}, weight.data(), 1e-5F,
                                 {cpu.data(), kRows, cols, cols});
      EXPECT_EQ(y.Read(), StoreAs(dtype, cpu).bytes) << "cols " << cols;
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
