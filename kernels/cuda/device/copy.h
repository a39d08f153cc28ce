// Copies from global to shared memory that go on beside the threads, by the copy engine (compute
// capability 9.0): tiles of tensors and plain bytes. PTX ISA 8.7, section 9.7.9.25.
#ifndef REPRISE_KERNELS_CUDA_DEVICE_COPY_H_
#define REPRISE_KERNELS_CUDA_DEVICE_COPY_H_

#include "kernels/cuda/device/barrier.h"
#include "kernels/cuda/device/tensor_map.h"
#if !defined(__CUDACC__)
#include "kernels/cuda/emulator/copy_engine.h"
#endif

namespace reprise::cuda {

// What the second-level cache does with what passes.
enum class Reuse : uint64_t {
  kOnce = 0x12F0000000000000,   // evict first
  kOften = 0x14F0000000000000,  // evict last
  kNormal = 0x1000000000000000,
};

#if defined(__CUDACC__)

#if __CUDA_ARCH__ >= 900 || !defined(__CUDA_ARCH__)
REPRISE_DEVICE void PrefetchMap(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" : : "l"(&map) : "memory");
}
// The map's tile at the coordinates, innermost first. One thread calls; the barrier gets its bytes.
REPRISE_DEVICE void LoadTile(void* to, const TensorMap& map, Mbarrier* barrier, int32_t c0,
                             int32_t c1, Reuse reuse) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;"
      :
      : "r"(SharedAddress(to)), "l"(&map), "r"(SharedAddress(barrier)), "r"(c0), "r"(c1),
        "l"(static_cast<uint64_t>(reuse))
      : "memory");
}
REPRISE_DEVICE void LoadTile(void* to, const TensorMap& map, Mbarrier* barrier, int32_t c0,
                             int32_t c1, int32_t c2, Reuse reuse) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6;"
      :
      : "r"(SharedAddress(to)), "l"(&map), "r"(SharedAddress(barrier)), "r"(c0), "r"(c1), "r"(c2),
        "l"(static_cast<uint64_t>(reuse))
      : "memory");
}
// `bytes` is a multiple of 16, both sides are aligned to 16.
REPRISE_DEVICE void LoadBytes(void* to, const void* from, uint32_t bytes, Mbarrier* barrier,
                              Reuse reuse) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1], %2, [%3], %4;"
      :
      : "r"(SharedAddress(to)), "l"(from), "r"(bytes), "r"(SharedAddress(barrier)),
        "l"(static_cast<uint64_t>(reuse))
      : "memory");
}
#endif

#else

REPRISE_DEVICE void PrefetchMap(const TensorMap&) {}
REPRISE_DEVICE void LoadTile(void* to, const TensorMap& map, Mbarrier* barrier, int32_t c0,
                             int32_t c1, Reuse) {
  const int32_t at[] = {c0, c1};
  emulator::LoadTile(emulator::TensorIn(map.bytes), SharedAddress(to), SharedAddress(barrier), 2,
                     at);
}
REPRISE_DEVICE void LoadTile(void* to, const TensorMap& map, Mbarrier* barrier, int32_t c0,
                             int32_t c1, int32_t c2, Reuse) {
  const int32_t at[] = {c0, c1, c2};
  emulator::LoadTile(emulator::TensorIn(map.bytes), SharedAddress(to), SharedAddress(barrier), 3,
                     at);
}
REPRISE_DEVICE void LoadBytes(void* to, const void* from, uint32_t bytes, Mbarrier* barrier,
                              Reuse) {
  emulator::LoadBytes(SharedAddress(to), from, bytes, SharedAddress(barrier));
}

#endif

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DEVICE_COPY_H_
