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

// A CRC is linear, so the checksum of a whole is a sum (exclusive or) over its pieces: the *part*
// of a piece is what its own bytes make of an empty register, and zeros make nothing. Shifted past
// the bytes that follow it in the whole, each is added; the seed, shifted past all, is added last.
// So a checksum can be put together from pieces that were summed elsewhere, at other times, in any
// order.
class Crc32cShift {
 public:
  explicit Crc32cShift(uint64_t bytes);
  // The part as seen from behind `bytes` more bytes.
  uint32_t operator()(uint32_t part) const;

 private:
  uint32_t power_;  // of x, as Crc32cImplementation::shift wants it
};

// Copies; returns the part of the copied bytes.
inline uint32_t Crc32cPartCopy(void* dst, const void* src, size_t n) {
  return ~Crc32cCopy(dst, src, n, ~uint32_t{0});
}
inline uint32_t Crc32cPart(const void* data, size_t n) { return ~Crc32c(data, n, ~uint32_t{0}); }

// Crc32c(data, n, seed) of the n bytes `past` shifts by, whose parts add up to `parts`.
inline uint32_t Crc32cOfParts(uint32_t parts, const Crc32cShift& past, uint32_t seed = 0) {
  return ~(past(~seed) ^ parts);
}

// The checksum of a followed by b, which has `b_bytes`, from theirs.
inline uint32_t Crc32cCombine(uint32_t a, uint32_t b, uint64_t b_bytes) {
  return Crc32cShift(b_bytes)(a) ^ b;
}

// One implementation, exposed so that tests and benchmarks can compare them.
struct Crc32cImplementation {
  const char* name;
  uint32_t (*crc)(const void* data, size_t n, uint32_t seed);
  uint32_t (*copy)(void* dst, const void* src, size_t n, uint32_t seed);
  // part * power * x^33 modulo the polynomial, all reflected (bit 31 is x^0).
  uint32_t (*shift)(uint32_t part, uint32_t power);
};

// Those the running CPU supports, fastest first; the last one is the portable table.
const std::vector<Crc32cImplementation>& Crc32cImplementations();

}  // namespace reprise

#endif  // REPRISE_COMMON_CRC32C_H_
