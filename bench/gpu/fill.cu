// Random numbers from a counter: what a benchmark reads must not be zeros, which cards multiply faster.
#include "bench/gpu/fill.h"

#include "kernels/cuda/device/device.h"
#include "kernels/cuda/device/launch.h"

namespace reprise::bench::gpu {
namespace {

using namespace cuda;  // NOLINT(build/namespaces): the kernels' language

constexpr uint32_t kThreads = 256;

REPRISE_DEVICE uint32_t Hash(uint64_t x) {
  x ^= x >> 33;
  x *= 0xFF51AFD7ED558CCDULL;
  x ^= x >> 33;
  x *= 0xC4CEB9FE1A85EC53ULL;
  x ^= x >> 33;
  return static_cast<uint32_t>(x);
}

REPRISE_KERNEL(kThreads, 1) FillKernel(uint16_t* to, int64_t count, uint64_t seed) {
  const int64_t stride = static_cast<int64_t>(GridX()) * kThreads;
  for (int64_t i = static_cast<int64_t>(BlockX()) * kThreads + ThreadX(); i < count; i += stride) {
    const uint32_t bits = Hash(seed + static_cast<uint64_t>(i));
    to[i] = ToBf16(static_cast<float>(static_cast<int32_t>(bits)) * 0x1p-31F).bits;
  }
}

}  // namespace

int FillRandom(uint16_t* to, int64_t count, uint64_t seed, Stream stream) {
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  return Launch({.blocks = {static_cast<uint32_t>(blocks < 4096 ? blocks : 4096), 1, 1},
                 .threads = {kThreads, 1, 1}},
                stream, FillKernel, to, count, seed);
}

}  // namespace reprise::bench::gpu
