// For tests of kernels: arrays on the device, made from and read back into vectors. The tests run
// on the emulator, or under --config=cuda on a card, and are skipped where that has none.
#ifndef REPRISE_KERNELS_CUDA_TEST_DEVICE_H_
#define REPRISE_KERNELS_CUDA_TEST_DEVICE_H_

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cuda/device/buffer.h"
#include "kernels/cuda/device/runtime.h"
#if !defined(REPRISE_ON_CARD)
#include "kernels/cuda/emulator/queue.h"
#endif

namespace reprise::cuda::testing {

// A fixture for kernels. What is queued on the emulated device happens late; its grids are run with
// `seed`s of the test's choosing.
class OnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    const int e = FindDevice(&device_);
    if (e == kErrorNoDriver || e == kErrorNoDevice) {
      GTEST_SKIP() << "no CUDA device on this machine (cudaError " << e << ")";
    }
    ASSERT_EQ(e, 0) << ErrorText(e);
#if !defined(REPRISE_ON_CARD)
    emulator::SetLate(true);
#endif
  }
  void TearDown() override {
#if !defined(REPRISE_ON_CARD)
    emulator::SetLate(false);
    emulator::ResetDevice();
#endif
  }
  void UseSeed([[maybe_unused]] uint64_t seed) {
#if !defined(REPRISE_ON_CARD)
    emulator::SetSeed(seed);
#endif
  }
  const DeviceInfo& device() const { return device_; }

 private:
  DeviceInfo device_;
};

// `count` elements on the device.
template <class T>
class Array {
 public:
  explicit Array(const std::vector<T>& values) : Array(values.size()) {
    EXPECT_EQ(CopyIn(memory_.data(), values.data(), values.size() * sizeof(T), nullptr), 0);
    EXPECT_EQ(Synchronize(nullptr), 0);
  }
  // Poisoned: what a kernel does not write is NaN.
  explicit Array(size_t count) : count_(count) {
    EXPECT_EQ(memory_.Reset(count * sizeof(T)), 0);
    if (count > 0) EXPECT_EQ(Fill(memory_.data(), 0xFF, count * sizeof(T), nullptr), 0);
  }
  T* data() const { return memory_.as<T>(); }
  size_t size() const { return count_; }
  std::vector<T> Read() const {
    std::vector<T> values(count_);
    EXPECT_EQ(CopyOut(values.data(), memory_.data(), count_ * sizeof(T), nullptr), 0);
    EXPECT_EQ(Synchronize(nullptr), 0);
    return values;
  }

 private:
  Buffer memory_;
  size_t count_ = 0;
};

// ||got - want|| / ||want||; NaN counts as infinite.
inline double RelativeError(const std::vector<double>& got, const std::vector<double>& want) {
  double difference = 0;
  double norm = 0;
  EXPECT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = got[i] - want[i];
    if (d != d) return HUGE_VAL;
    difference += d * d;
    norm += want[i] * want[i];
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

}  // namespace reprise::cuda::testing

#endif  // REPRISE_KERNELS_CUDA_TEST_DEVICE_H_
