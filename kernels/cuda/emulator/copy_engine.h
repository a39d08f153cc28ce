// Bulk copies between global and shared memory as an emulated block issues them: tiles of tensors
// (cp.async.bulk.tensor) with their swizzle, and plain bytes. They happen some time later and are
// reported to an mbarrier. Called by threads of a kernel.
#ifndef REPRISE_KERNELS_CUDA_EMULATOR_COPY_ENGINE_H_
#define REPRISE_KERNELS_CUDA_EMULATOR_COPY_ENGINE_H_

#include <cstdint>
#include <cstring>
#include <string>

namespace reprise::cuda::emulator {

inline constexpr int kTensorRankMax = 5;

// A tensor in global memory and the tile that one copy takes. Dimension 0 is the innermost and
// dense.
struct Tensor {
  const void* base = nullptr;
  uint32_t rank = 0;
  uint32_t element_bytes = 2;
  uint64_t dims[kTensorRankMax] = {};
  uint64_t stride_bytes[kTensorRankMax] = {};  // [0] is element_bytes
  uint32_t box[kTensorRankMax] = {};
  uint32_t swizzle_bytes = 0;  // 0, 32, 64 or 128
};

// That a TensorMap (device/tensor_map.h) holds.
inline Tensor TensorIn(const uint8_t (&bytes)[128]) {
  static_assert(sizeof(Tensor) <= sizeof bytes);
  Tensor tensor;
  std::memcpy(&tensor, bytes, sizeof tensor);
  return tensor;
}

// What a card would refuse to encode, or empty.
std::string CheckTensor(const Tensor& tensor);

// The tile at `coordinates`, as many as the tensor has dimensions, to shared memory; elements
// outside the tensor are zero.
void LoadTile(const Tensor& tensor, uint32_t to, uint32_t mbarrier, uint32_t rank,
              const int32_t* coordinates);
void LoadBytes(uint32_t to, const void* from, uint32_t bytes, uint32_t mbarrier);

}  // namespace reprise::cuda::emulator

#endif  // REPRISE_KERNELS_CUDA_EMULATOR_COPY_ENGINE_H_
