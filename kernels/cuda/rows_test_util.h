// For tests of kernels over rows: random elements with every kind of number among them, rows on the
// device in either type, comparison of bits. Owner: tests.
#ifndef REPRISE_KERNELS_CUDA_ROWS_TEST_UTIL_H_
#define REPRISE_KERNELS_CUDA_ROWS_TEST_UTIL_H_

#include <vector>

#include "common/half.h"
#include "kernels/cuda/rows_view.h"
#include "kernels/cuda/test_device.h"
#include "kernels/test_util.h"

namespace reprise::cuda::testing {

// Uniform numbers, and one in eight a zero, denormal, infinity, NaN or one near the ends of exp.
inline std::vector<float> AllKinds(int64_t n, uint32_t stream, float scale) {
  constexpr float kKinds[] = {0.0F,
                              -0.0F,
                              1e-40F,
                              -1e-45F,
                              kernels::testing::kInf,
                              -kernels::testing::kInf,
                              kernels::testing::kNaN,
                              88.3F,
                              88.8F,
                              -87.3F,
                              -88.1F,
                              -103.0F,
                              3e38F,
                              -3e38F,
                              1.2e-38F,
                              1.0F};
  std::vector<float> v = kernels::testing::Uniform(n, stream, scale);
  for (int64_t i = 0; i < n; ++i) {
    const double draw = kernels::UniformAt(11, stream, static_cast<uint64_t>(i));
    if (draw < 0.125) v[static_cast<size_t>(i)] = kKinds[static_cast<int>(draw * 128)];
  }
  return v;
}

// The bits, or NaN both.
inline ::testing::AssertionResult SameNumbers(const std::vector<float>& got,
                                              const std::vector<float>& want) {
  if (got.size() != want.size()) {
    return ::testing::AssertionFailure() << got.size() << " numbers, not " << want.size();
  }
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] != got[i] && want[i] != want[i]) continue;
    if (std::bit_cast<uint32_t>(got[i]) != std::bit_cast<uint32_t>(want[i])) {
      return ::testing::AssertionFailure()
             << "element " << i << ": " << got[i] << " is not " << want[i];
    }
  }
  return ::testing::AssertionSuccess();
}

// Rows on the device, with a gap behind each that must not change (poison).
class TestRows {
 public:
  // Of the values, [rows, cols], rounded to bf16 when the rows are of that type.
  TestRows(const std::vector<float>& values, int64_t rows, int64_t cols, bool bf16, int64_t gap)
      : TestRows(rows, cols, bf16, gap) {
    std::vector<uint8_t> bytes = memory_.Read();
    for (int64_t i = 0; i < rows * cols; ++i) {
      const float value = values[static_cast<size_t>(i)];
      uint8_t* at = bytes.data() + ((i / cols) * stride_ + i % cols) * size_;
      const uint16_t half = F32ToBf16(value);
      std::memcpy(at, bf16 ? static_cast<const void*>(&half) : &value, static_cast<size_t>(size_));
    }
    EXPECT_EQ(CopyIn(memory_.data(), bytes.data(), bytes.size(), nullptr), 0);
    EXPECT_EQ(Synchronize(nullptr), 0);
  }
  // Poisoned.
  TestRows(int64_t rows, int64_t cols, bool bf16, int64_t gap)
      : rows_(rows),
        cols_(cols),
        stride_(cols + gap),
        size_(bf16 ? 2 : 4),
        memory_(static_cast<size_t>(rows * stride_ * size_)) {}

  ConstRows in() const { return {memory_.data(), stride_, size_ == 2}; }
  Rows out() const { return {memory_.data(), stride_, size_ == 2}; }
  // [rows, cols], widened.
  std::vector<float> Read() const {
    const std::vector<uint8_t> bytes = memory_.Read();
    std::vector<float> values;
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < stride_; ++c) {
        const uint8_t* at = bytes.data() + (r * stride_ + c) * size_;
        uint16_t half;
        float value;
        std::memcpy(&half, at, sizeof half);
        std::memcpy(&value, at, static_cast<size_t>(size_) < 4 ? 2 : 4);
        if (size_ == 2) value = Bf16ToF32(half);
        if (c < cols_) values.push_back(value);
        if (c >= cols_) EXPECT_NE(value, value) << "row " << r << " was written behind its end";
      }
    }
    return values;
  }
  // What is read back when these are stored in the rows' type.
  std::vector<float> AsStored(std::vector<float> values) const {
    if (size_ == 4) return values;
    for (float& v : values) v = Bf16ToF32(F32ToBf16(v));
    return values;
  }

 private:
  int64_t rows_;
  int64_t cols_;
  int64_t stride_;
  int64_t size_;
  Array<uint8_t> memory_;
};

}  // namespace reprise::cuda::testing

#endif  // REPRISE_KERNELS_CUDA_ROWS_TEST_UTIL_H_
