// What the copy engine must know of a tensor of bf16 in global memory and of the tiles it takes
// from it (PTX ISA 8.7, section 5.5). Made on the host, passed to kernels by value as a parameter.
#ifndef REPRISE_KERNELS_CUDA_DEVICE_TENSOR_MAP_H_
#define REPRISE_KERNELS_CUDA_DEVICE_TENSOR_MAP_H_

#include <cstddef>
#include <cstdint>

namespace reprise::cuda {

inline constexpr int kTensorRankMax = 5;

// Dimension 0 is the innermost, dense one.
struct TensorSpec {
  const void* base = nullptr;  // aligned to 16 bytes
  int rank = 0;
  uint64_t dims[kTensorRankMax] = {};
  uint64_t stride_bytes[kTensorRankMax] = {};  // from 1 on; multiples of 16
  uint32_t box[kTensorRankMax] = {};           // at most 256 each
  // Rows of a tile, as wide at most, lie in shared memory with bits 4 to 6 of their address mixed
  // with bits 7 to 9 (as many as fit): 0, 32, 64 or 128.
  uint32_t swizzle_bytes = 0;
};

// A card's CUtensorMap, or an emulator::Tensor: the same to whoever only passes it on, whichever
// compiler he is compiled by.
struct alignas(128) TensorMap {
  uint8_t bytes[128];
};

// 0, or a cudaError_t for what a card refuses.
int MakeTensorMap(const TensorSpec& spec, TensorMap* map);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DEVICE_TENSOR_MAP_H_
