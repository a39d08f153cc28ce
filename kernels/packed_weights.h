// A weight matrix in the blocked layout the linear kernels stream, built once at load.
//
// Owner: the model's weights. Threads: constant after Pack, so any number may read it.
// Invariants:
// 1. Layout: [ceil(n/8)][k_padded / elements][8 rows][64 bytes], 64-byte aligned; k_padded is a
//    multiple of 32, everything beyond n and k is zero.
// 2. bf16 stays bf16, f32 stays f32, f16 becomes f32 (exact).
#ifndef REPRISE_KERNELS_PACKED_WEIGHTS_H_
#define REPRISE_KERNELS_PACKED_WEIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "common/inline.h"
#include "kernels/ops.h"

namespace reprise::kernels {

class PackedWeights {
 public:
  static constexpr int64_t kRows = 8;        // rows of a block
  static constexpr int64_t kLineBytes = 64;  // bytes of one row in one k step

  PackedWeights() = default;

  // Concatenates `parts` along the rows (fused q|k|v, gate|up). All have the same cols and dtype;
  // the sources may be unaligned and are not kept.
  static PackedWeights Pack(std::span<const ConstMatrix> parts);
  static PackedWeights Pack(const ConstMatrix& whole) { return Pack(std::span(&whole, 1)); }

  REPRISE_INLINE DType dtype() const { return dtype_; }
  REPRISE_INLINE int64_t n() const { return n_; }
  REPRISE_INLINE int64_t k() const { return k_; }
  REPRISE_INLINE int64_t k_padded() const { return k_padded_; }
  REPRISE_INLINE int64_t blocks() const { return (n_ + kRows - 1) / kRows; }
  REPRISE_INLINE int64_t block_bytes() const { return kRows * k_padded_ * SizeOf(dtype_); }
  REPRISE_INLINE const std::byte* block(int64_t b) const { return data_.get() + b * block_bytes(); }
  REPRISE_INLINE int64_t bytes() const { return blocks() * block_bytes(); }

 private:
  struct Free {
    size_t align;  // zero until there is memory
    void operator()(std::byte* p) const;
  };

  DType dtype_ = DType::kF32;
  int64_t n_ = 0;
  int64_t k_ = 0;
  int64_t k_padded_ = 0;
  std::unique_ptr<std::byte[], Free> data_;
};

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_PACKED_WEIGHTS_H_
