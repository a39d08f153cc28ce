// CRC-32C (Castagnoli, RFC 3720 appendix B.4), the checksum of every KV segment and record. Chooses
// the fastest implementation of the running CPU once; all of them give the same value. Any thread.
#ifndef REPRISE_COMMON_CRC32C_H_
#define REPRISE_COMMON_CRC32C_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace reprise {

// Extendable: Crc32c(b, nb, Crc32c(a, na)) is the checksum of a followed by b.
uint32_t Crc32c(const void* data, size_t n, uint32_t seed = 0);

// Copies and checksums in one pass: the result describes the bytes as stored in `dst`, even when
// somebody writes to `src` meanwhile. The ranges must not overlap.
uint32_t Crc32cCopy(void* dst, const void* src, size_t n, uint32_t seed = 0);

// One implementation, exposed so that tests and benchmarks can compare them.
struct Crc32cImplementation {
  const char* name;
  uint32_t (*crc)(const void* data, size_t n, uint32_t seed);
  uint32_t (*copy)(void* dst, const void* src, size_t n, uint32_t seed);
};

// Those the running CPU supports, fastest first; the last one is the portable table.
const std::vector<Crc32cImplementation>& Crc32cImplementations();

}  // namespace reprise

#endif  // REPRISE_COMMON_CRC32C_H_
