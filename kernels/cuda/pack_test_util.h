// For tests of packing: tails of random pages, packed on the device. Owner: tests.
#ifndef REPRISE_KERNELS_CUDA_PACK_TEST_UTIL_H_
#define REPRISE_KERNELS_CUDA_PACK_TEST_UTIL_H_

#include <vector>

#include "common/random.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/test_device.h"

namespace reprise::cuda::testing {

inline std::vector<uint8_t> RandomBytes(SplitMix64& random, size_t n) {
  std::vector<uint8_t> bytes(n);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.Next());
  return bytes;
}

struct TailCase {
  int heads, first_dim, second_dim, layers;
  bool fp8 = false;  // rows of 656 bytes, as wide as the first part here
};
// Heads, latents, strips that are no multiples of 16 bytes.
inline constexpr TailCase kTailCases[] = {{2, 64, 64, 3}, {1, 512, 64, 2},  {3, 40, 24, 2},
                                          {1, 5, 3, 2},   {4, 128, 128, 4}, {1, 328, 0, 2, true}};

struct TailsOnDevice {
  static constexpr int64_t kPages = 3;

  TailsOnDevice(const TailCase& c, SplitMix64& random)
      : shape(c),
        segment_bytes(int64_t{2} * c.heads * kPageRows * (c.first_dim + c.second_dim)),
        page_bytes(c.layers * segment_bytes),
        pages(RandomBytes(random, static_cast<size_t>(kPages * page_bytes))),
        packed_max(static_cast<size_t>(page_bytes) + 32) {
    const Array<uint8_t> memory(pages);
    constexpr int kRanges[][2] = {{0, 1}, {63, 1}, {17, 5}, {0, 64}, {30, 0}};
    const Array<uint8_t> to(std::size(kRanges) * packed_max);
    for (size_t i = 0; i < std::size(kRanges); ++i) {
      tails.push_back({static_cast<int32_t>(i % kPages), kRanges[i][0], kRanges[i][1],
                       static_cast<uint32_t>(random.Next()), to.data() + i * packed_max});
    }
    const Array<TailCopy> list(tails);
    const Array<uint32_t> sums(tails.size());
    error = PackTails({.tails = list.data(),
                       .count = static_cast<int64_t>(tails.size()),
                       .rows_max = kPageRows,
                       .pool = {memory.data(), kPages, page_bytes, c.heads,
                                c.fp8 ? 512 : c.first_dim, c.fp8 ? 64 : c.second_dim, c.fp8},
                       .layers = c.layers,
                       .layer_stride_bytes = segment_bytes,
                       .checksums = sums.data()},
                      nullptr);
    checksums = sums.Read();
    packed = to.Read();
  }
  // packed_max bytes, poison behind the tail.
  std::vector<uint8_t> Packed(size_t tail) const {
    const auto at = packed.begin() + static_cast<std::ptrdiff_t>(tail * packed_max);
    return {at, at + static_cast<std::ptrdiff_t>(packed_max)};
  }

  TailCase shape;
  int64_t segment_bytes;  // of a layer
  int64_t page_bytes;
  std::vector<uint8_t> pages;
  size_t packed_max;
  std::vector<TailCopy> tails;
  std::vector<uint32_t> checksums;
  std::vector<uint8_t> packed;
  int error = 0;
};

}  // namespace reprise::cuda::testing

#endif  // REPRISE_KERNELS_CUDA_PACK_TEST_UTIL_H_
