#include "kernels/cuda/emulator/copy_engine.h"

#include <array>
#include <cstring>
#include <vector>

#include "kernels/cuda/emulator/block.h"

namespace reprise::cuda::emulator {
namespace {

constexpr uint32_t kBoxMax = 256;

size_t TileBytes(const Tensor& t) {
  size_t bytes = t.element_bytes;
  for (uint32_t d = 0; d < t.rank; ++d) bytes *= t.box[d];
  return bytes;
}

using Coordinates = std::array<int32_t, kTensorRankMax>;

void CopyTile(const Tensor& t, uint32_t to, const Coordinates& at, SharedMemory& shared) {
  const uint32_t row_bytes = t.box[0] * t.element_bytes;
  const size_t rows = TileBytes(t) / row_bytes;
  const uint32_t mask = t.swizzle_bytes == 0 ? 0 : (t.swizzle_bytes - 1) & 0x70;
  for (size_t row = 0; row < rows; ++row) {
    size_t rest = row;
    const auto* from = static_cast<const uint8_t*>(t.base);
    bool inside = true;
    for (uint32_t d = 1; d < t.rank; ++d) {
      const int64_t i = at[d] + static_cast<int64_t>(rest % t.box[d]);
      rest /= t.box[d];
      inside &= i >= 0 && i < static_cast<int64_t>(t.dims[d]);
      from += i * static_cast<int64_t>(t.stride_bytes[d]);
    }
    for (uint32_t c = 0; c < t.box[0]; ++c) {
      const int64_t i = at[0] + static_cast<int64_t>(c);
      const bool has = inside && i >= 0 && i < static_cast<int64_t>(t.dims[0]);
      uint8_t element[16] = {};
      if (has) std::memcpy(element, from + i * t.element_bytes, t.element_bytes);
      const auto address = static_cast<uint32_t>(to + row * row_bytes + c * t.element_bytes);
      shared.WriteAsync(address ^ (address >> 3 & mask), element, t.element_bytes);
    }
  }
}

}  // namespace

std::string CheckTensor(const Tensor& t) {
  if (t.rank == 0 || t.rank > kTensorRankMax) return "a tensor of rank " + std::to_string(t.rank);
  if (reinterpret_cast<uintptr_t>(t.base) % 16 != 0) return "a tensor not aligned to 16 bytes";
  const uint32_t row_bytes = t.box[0] * t.element_bytes;
  if (row_bytes % 16 != 0) return "a tile of rows of " + std::to_string(row_bytes) + " bytes";
  if (t.swizzle_bytes != 0 && row_bytes > t.swizzle_bytes) {
    return "a tile of rows of " + std::to_string(row_bytes) + " bytes, the swizzle is of " +
           std::to_string(t.swizzle_bytes);
  }
  for (uint32_t d = 0; d < t.rank; ++d) {
    if (t.box[d] == 0 || t.box[d] > kBoxMax) {
      return "a tile with " + std::to_string(t.box[d]) + " elements in dimension " +
             std::to_string(d) + ", the limit is " + std::to_string(kBoxMax);
    }
    if (d > 0 && t.stride_bytes[d] % 16 != 0) {
      return "a tensor with a stride of " + std::to_string(t.stride_bytes[d]) + " bytes";
    }
  }
  return "";
}

void LoadTile(const Tensor& tensor, uint32_t to, uint32_t mbarrier, uint32_t rank,
              const int32_t* coordinates) {
  Block& block = *Here().block;
  if (rank != tensor.rank) {
    block.Fault(std::to_string(rank) + " coordinates of a tensor of rank " +
                std::to_string(tensor.rank));
  }
  if (std::string why = CheckTensor(tensor); !why.empty()) block.Fault(why);
  const size_t bytes = TileBytes(tensor);
  const uint32_t alignment = tensor.swizzle_bytes == 0 ? 16 : 128;
  if (!block.shared().Holds(to, bytes) || to % alignment != 0) {
    block.Fault("a tile of " + std::to_string(bytes) + " bytes copied to " + std::to_string(to));
  }
  Coordinates at = {};
  for (uint32_t d = 0; d < tensor.rank; ++d) at[d] = coordinates[d];
  block.shared().Poison(to, bytes);
  block.Later([&block, tensor, to, mbarrier, at, bytes] {
    CopyTile(tensor, to, at, block.shared());
    block.CompleteBytes(mbarrier, static_cast<uint32_t>(bytes));
  });
}

void LoadBytes(uint32_t to, const void* from, uint32_t bytes, uint32_t mbarrier) {
  Block& block = *Here().block;
  if (!block.shared().Holds(to, bytes) || to % 16 != 0 || bytes % 16 != 0 ||
      reinterpret_cast<uintptr_t>(from) % 16 != 0) {
    block.Fault(std::to_string(bytes) + " bytes copied in bulk to " + std::to_string(to));
  }
  block.shared().Poison(to, bytes);
  block.Later([&block, to, from, bytes, mbarrier] {
    block.shared().WriteAsync(to, from, bytes);
    block.CompleteBytes(mbarrier, bytes);
  });
}

}  // namespace reprise::cuda::emulator
