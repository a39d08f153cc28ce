// What the lanes of a warp do together. All lanes of `mask` must come.
#ifndef REPRISE_KERNELS_CUDA_DEVICE_WARP_H_
#define REPRISE_KERNELS_CUDA_DEVICE_WARP_H_

#include "kernels/cuda/device/device.h"

namespace reprise::cuda {

inline constexpr uint32_t kAllLanes = 0xFFFFFFFFU;

REPRISE_DEVICE uint32_t Lane() { return ThreadX() % 32; }
// Of a block with one dimension; the same value in all lanes, so that what depends on it is
// uniform.
REPRISE_DEVICE uint32_t Warp();

#if defined(__CUDACC__)

REPRISE_DEVICE uint32_t ShuffleXor(uint32_t value, uint32_t lanes, uint32_t mask = kAllLanes) {
  return __shfl_xor_sync(mask, value, lanes);
}
REPRISE_DEVICE uint32_t Shuffle(uint32_t value, uint32_t from, uint32_t mask = kAllLanes) {
  return __shfl_sync(mask, value, from);
}
REPRISE_DEVICE uint32_t Ballot(bool value, uint32_t mask = kAllLanes) {
  return __ballot_sync(mask, value);
}
REPRISE_DEVICE void SyncWarp(uint32_t mask = kAllLanes) { __syncwarp(mask); }
REPRISE_DEVICE uint32_t Warp() { return __shfl_sync(kAllLanes, threadIdx.x / 32, 0); }

#else

REPRISE_DEVICE uint32_t ShuffleXor(uint32_t value, uint32_t lanes, uint32_t mask = kAllLanes) {
  emulator::Thread& self = emulator::Here();
  const emulator::LaneValues all = self.block->Meet(mask, value, "shuffle");
  return static_cast<uint32_t>(all[self.lane() ^ lanes]);
}
REPRISE_DEVICE uint32_t Shuffle(uint32_t value, uint32_t from, uint32_t mask = kAllLanes) {
  return static_cast<uint32_t>(emulator::Here().block->Meet(mask, value, "shuffle")[from % 32]);
}
REPRISE_DEVICE uint32_t Ballot(bool value, uint32_t mask = kAllLanes) {
  const emulator::LaneValues all = emulator::Here().block->Meet(mask, value ? 1 : 0, "ballot");
  uint32_t bits = 0;
  for (uint32_t i = 0; i < 32; ++i) {
    if ((mask >> i & 1) != 0 && all[i] != 0) bits |= 1U << i;
  }
  return bits;
}
REPRISE_DEVICE void SyncWarp(uint32_t mask = kAllLanes) {
  emulator::Here().block->Meet(mask, 0, "syncwarp");
}
REPRISE_DEVICE uint32_t Warp() { return emulator::Here().warp(); }

#endif

REPRISE_DEVICE float ShuffleXor(float value, uint32_t lanes, uint32_t mask = kAllLanes) {
  return FloatOf(ShuffleXor(BitsOf(value), lanes, mask));
}
REPRISE_DEVICE float Shuffle(float value, uint32_t from, uint32_t mask = kAllLanes) {
  return FloatOf(Shuffle(BitsOf(value), from, mask));
}

// Over `lanes` neighbours, a power of two, in the lane tree: i with i + lanes/2, ..., i + 1.
REPRISE_DEVICE float SumOf(float value, uint32_t lanes) {
  for (uint32_t step = lanes / 2; step >= 1; step /= 2) value = value + ShuffleXor(value, step);
  return value;
}
REPRISE_DEVICE float MaxOf(float value, uint32_t lanes) {
  for (uint32_t step = lanes / 2; step >= 1; step /= 2) {
    value = Max(value, ShuffleXor(value, step));
  }
  return value;
}

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DEVICE_WARP_H_
