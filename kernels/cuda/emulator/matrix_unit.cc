#include "kernels/cuda/emulator/matrix_unit.h"

#include <cstring>
#include <utility>

namespace reprise::cuda::emulator {
namespace {

constexpr int kM = 64;
constexpr int kK = 16;

float Widen(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// The fields of a matrix descriptor, in bytes.
struct Descriptor {
  explicit Descriptor(uint64_t d)
      : start(static_cast<uint32_t>(d & 0x3FFF) << 4),
        leading(static_cast<uint32_t>(d >> 16 & 0x3FFF) << 4),
        stride(static_cast<uint32_t>(d >> 32 & 0x3FFF) << 4),
        base(static_cast<uint32_t>(d >> 49 & 7)),
        swizzle(static_cast<uint32_t>(d >> 62)) {}
  uint32_t start, leading, stride, base;
  uint32_t swizzle;  // 0 none, 1 of 128 bytes, 2 of 64, 3 of 32

  uint32_t RowBytes() const { return swizzle == 0 ? 16 : 256U >> swizzle; }
  // Bits 4 to 6 of an address are mixed with bits 7 to 9, as many as a row of the swizzle has.
  uint32_t Swizzled(uint32_t address) const {
    if (swizzle == 0) return address;
    const uint32_t mask = (RowBytes() - 1) & 0x70;
    return address ^ (address >> 3 & mask);
  }
  // Of element (mn, k).
  uint32_t Address(int mn, int k, bool mn_major) const {
    const auto i = static_cast<uint32_t>(mn);
    const auto j = static_cast<uint32_t>(k);
    if (!mn_major) {
      const uint32_t row = i % 8 * RowBytes() + i / 8 * stride;
      if (swizzle == 0) return start + row + j / 8 * leading + j % 8 * 2;
      return Swizzled(start + row + j * 2);
    }
    const uint32_t per_row = RowBytes() / 2;
    const uint32_t within = i % per_row * 2 + j % 8 * RowBytes();
    if (swizzle == 0) return start + within + i / per_row * stride + j / 8 * leading;
    return Swizzled(start + within + i / per_row * leading + j / 8 * stride);
  }
};

std::string Load(uint64_t bits, int mn_count, bool mn_major, const SharedMemory& shared,
                 float* to) {  // [mn_count, kK]
  const Descriptor d(bits);
  if (d.base != 0) return "a matrix descriptor with a base offset, which is not emulated";
  for (int mn = 0; mn < mn_count; ++mn) {
    for (int k = 0; k < kK; ++k) {
      const uint32_t address = d.Address(mn, k, mn_major);
      if (!shared.Holds(address, 2)) {
        return "a matrix descriptor reads shared memory at " + std::to_string(address);
      }
      uint16_t value;
      std::memcpy(&value, shared.Async(address), sizeof value);
      to[mn * kK + k] = Widen(value);
    }
  }
  return "";
}

// Rows of a thread's fragments: thread t has row 16 * (t / 32) + t % 32 / 4, and the one 8 below.
int RowOf(uint32_t t) { return static_cast<int>(16 * (t / 32) + t % 32 / 4); }

}  // namespace

void MatrixUnit::Commit(uint32_t t) {
  threads_[t].groups.push_back(std::exchange(threads_[t].open, {}));
}

bool MatrixUnit::Committed(size_t groups) const {
  for (const ThreadOps& thread : threads_) {
    if (thread.groups.size() < groups) return false;
  }
  return true;
}

std::string MatrixUnit::RunUntil(size_t groups, const SharedMemory& shared) {
  for (; done_ < groups; ++done_) {
    const size_t ops = threads_[0].groups[done_].size();
    for (const ThreadOps& thread : threads_) {
      if (thread.groups[done_].size() != ops) return "threads of a warpgroup issue different wgmma";
    }
    for (size_t op = 0; op < ops; ++op) {
      if (std::string why = Run(done_, op, shared); !why.empty()) return why;
    }
  }
  return "";
}

std::string MatrixUnit::Run(size_t group, size_t index, const SharedMemory& shared) {
  const MatrixOp& first = threads_[0].groups[group][index];
  const int n = first.n;
  std::vector<float> a(kM * kK);
  std::vector<float> b(static_cast<size_t>(n) * kK);
  for (uint32_t t = 0; t < kThreads; ++t) {
    const MatrixOp& op = threads_[t].groups[group][index];
    if (op.n != n || (op.a == nullptr) != (first.a == nullptr) ||
        op.a_descriptor != first.a_descriptor || op.b_descriptor != first.b_descriptor ||
        op.accumulate != first.accumulate) {
      return "threads of a warpgroup issue different wgmma";
    }
    if (op.a == nullptr) continue;
    for (int r = 0; r < 4; ++r) {
      const int row = RowOf(t) + r % 2 * 8;
      const int k = static_cast<int>(t % 4) * 2 + r / 2 * 8;
      a[static_cast<size_t>(row * kK + k)] = Widen(static_cast<uint16_t>(op.a[r]));
      a[static_cast<size_t>(row * kK + k + 1)] = Widen(static_cast<uint16_t>(op.a[r] >> 16));
    }
  }
  if (first.a == nullptr) {
    if (std::string why = Load(first.a_descriptor, kM, first.a_mn_major, shared, a.data());
        !why.empty()) {
      return why;
    }
  }
  if (std::string why = Load(first.b_descriptor, n, first.b_mn_major, shared, b.data());
      !why.empty()) {
    return why;
  }
  for (uint32_t t = 0; t < kThreads; ++t) {
    const MatrixOp& op = threads_[t].groups[group][index];
    for (int i = 0; i < n / 2; ++i) {
      const int row = RowOf(t) + i / 2 % 2 * 8;
      const int col = i / 4 * 8 + static_cast<int>(t % 4) * 2 + i % 2;
      double sum = op.accumulate ? static_cast<double>(op.d[i]) : 0;
      for (int k = 0; k < kK; ++k) {
        sum += static_cast<double>(a[static_cast<size_t>(row * kK + k)]) *
               static_cast<double>(b[static_cast<size_t>(col * kK + k)]);
      }
      op.d[i] = static_cast<float>(sum);
    }
  }
  return "";
}

}  // namespace reprise::cuda::emulator
