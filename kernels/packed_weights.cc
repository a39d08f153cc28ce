#include "kernels/packed_weights.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

#include "common/half.h"

namespace reprise::kernels {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

// Copies one source row into its lines; `line_step` bytes separate consecutive lines of a row.
void PackRow(const std::byte* src, DType from, int64_t k, std::byte* dst, int64_t line_step) {
  const int64_t per_line = from == DType::kBF16 ? 32 : 16;
  for (int64_t k0 = 0; k0 < k; k0 += per_line, dst += line_step) {
    const int64_t n = k - k0 < per_line ? k - k0 : per_line;
    if (from != DType::kF16) {
      std::memcpy(dst, src + k0 * SizeOf(from), static_cast<size_t>(n * SizeOf(from)));
      continue;
    }
    for (int64_t i = 0; i < n; ++i) {
      uint16_t half;
      std::memcpy(&half, src + (k0 + i) * 2, 2);
      const float value = F16ToF32(half);
      std::memcpy(dst + i * 4, &value, 4);
    }
  }
}

}  // namespace

void PackedWeights::Free::operator()(std::byte* p) const {
  ::operator delete[](p, std::align_val_t(align));
}

PackedWeights PackedWeights::Pack(std::span<const ConstMatrix> parts) {
  PackedWeights w;
  const DType from = parts.front().dtype;
  w.dtype_ = from == DType::kBF16 ? DType::kBF16 : DType::kF32;
  w.k_ = parts.front().cols;
  w.k_padded_ = (w.k_ + 31) / 32 * 32;
  for (const ConstMatrix& part : parts) w.n_ += part.rows;
  // Weights are streamed end to end: huge pages spare the streams their TLB misses.
  const size_t align = w.bytes() >= kHugePage ? kHugePage : kLineBytes;
  const auto bytes = static_cast<size_t>(w.bytes());
  auto* data = static_cast<std::byte*>(::operator new[](bytes, std::align_val_t(align)));
  w.data_ = std::unique_ptr<std::byte[], Free>(data, Free{align});
  if (align == kHugePage) madvise(data, bytes, MADV_HUGEPAGE);
  std::memset(data, 0, bytes);
  int64_t row = 0;
  for (const ConstMatrix& part : parts) {
    const auto* src = static_cast<const std::byte*>(part.data);
    for (int64_t r = 0; r < part.rows; ++r, ++row) {
      std::byte* dst = data + row / kRows * w.block_bytes() + row % kRows * kLineBytes;
      PackRow(src + r * part.row_stride * SizeOf(from), from, w.k_, dst, kRows * kLineBytes);
    }
  }
  return w;
}

}  // namespace reprise::kernels
