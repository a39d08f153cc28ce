// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy as
// 1, 2, 3" (SC 2011). A draw is a function of (seed, branch, position), so it survives batching,
// replay and failover. Pure functions; any thread.
#ifndef REPRISE_KERNELS_PHILOX_H_
#define REPRISE_KERNELS_PHILOX_H_

#include <array>
#include <cstdint>

#include "kernels/portable.h"

namespace reprise::kernels {

// Ten rounds over a counter of four words.
REPRISE_PORTABLE void Philox4x32Rounds(uint32_t* counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter[0] = static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key0;
    counter[1] = static_cast<uint32_t>(b);
    counter[2] = static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key1;
    counter[3] = static_cast<uint32_t>(a);
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
}

inline std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                          std::array<uint32_t, 2> key) {
  Philox4x32Rounds(counter.data(), key[0], key[1]);
  return counter;
}

// Uniform in [0, 1) with 53 random bits.
REPRISE_PORTABLE double UniformAt(uint64_t seed, uint32_t branch, uint64_t position) {
  uint32_t r[4] = {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), branch,
                   0};
  Philox4x32Rounds(r, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  const uint64_t bits = (uint64_t{r[1]} << 32 | r[0]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_PHILOX_H_
