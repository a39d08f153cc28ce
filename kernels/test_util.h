// What the kernel tests share: counter-based data, the list of instruction sets of this machine,
// comparisons that name the first difference. Owner: tests. Threads: pure functions.
#ifndef REPRISE_KERNELS_TEST_UTIL_H_
#define REPRISE_KERNELS_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "common/half.h"
#include "kernels/ops.h"
#include "kernels/philox.h"

namespace reprise::kernels::testing {

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInf = std::numeric_limits<float>::infinity();

inline std::vector<Isa> Isas() {
  std::vector<Isa> isas = {Isa::kScalar};
  if (Supported(Isa::kAvx2)) isas.push_back(Isa::kAvx2);
  if (Supported(Isa::kAvx512)) isas.push_back(Isa::kAvx512);
  return isas;
}

// n values in [-scale, scale), different for every stream.
inline std::vector<float> Uniform(int64_t n, uint32_t stream, float scale = 1) {
  std::vector<float> v(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    v[i] = static_cast<float>((2 * UniformAt(7, stream, static_cast<uint64_t>(i)) - 1) * scale);
  }
  return v;
}

inline std::vector<double> ToDouble(const std::vector<float>& v) { return {v.begin(), v.end()}; }

// v stored as `type`, and what the stored bits mean.
struct Stored {
  std::vector<std::byte> bytes;
  std::vector<float> values;
};
inline Stored StoreAs(DType type, const std::vector<float>& v) {
  Stored s{std::vector<std::byte>(v.size() * static_cast<size_t>(SizeOf(type))), v};
  for (size_t i = 0; i < v.size(); ++i) {
    if (type == DType::kF32) {
      std::memcpy(s.bytes.data() + i * 4, &v[i], 4);
      continue;
    }
    const uint16_t h = type == DType::kBF16 ? F32ToBf16(v[i]) : F32ToF16(v[i]);
    std::memcpy(s.bytes.data() + i * 2, &h, 2);
    s.values[i] = type == DType::kBF16 ? Bf16ToF32(h) : F16ToF32(h);
  }
  return s;
}

inline ::testing::AssertionResult SameBits(const std::vector<float>& a,
                                           const std::vector<float>& b) {
  if (a.size() != b.size()) return ::testing::AssertionFailure() << a.size() << " vs " << b.size();
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) {
      return ::testing::AssertionFailure() << "element " << i << ": " << a[i] << " vs " << b[i];
    }
  }
  return ::testing::AssertionSuccess();
}

// Scratch of exactly `bytes`, 64-byte aligned, so that a sanitizer sees one byte too many; filled
// with NaN so that nothing depends on what was there.
class TestScratch {
 public:
  explicit TestScratch(int64_t bytes)
      : bytes_(bytes),
        data_(static_cast<std::byte*>(
            ::operator new[](static_cast<size_t>(bytes), std::align_val_t(64)))) {
    std::memset(data_, 0xFF, static_cast<size_t>(bytes));
  }
  ~TestScratch() { ::operator delete[](data_, std::align_val_t(64)); }
  TestScratch(const TestScratch&) = delete;
  TestScratch& operator=(const TestScratch&) = delete;
  Exec With(ThreadPool* pool) const { return {pool, data_, bytes_}; }

 private:
  int64_t bytes_;
  std::byte* data_;
};

}  // namespace reprise::kernels::testing

#endif  // REPRISE_KERNELS_TEST_UTIL_H_
