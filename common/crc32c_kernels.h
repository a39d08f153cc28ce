// What the checksums of common/crc32c.h and crc32c_strips.h are computed with. Internal to these
// two.
//
// The polynomial arithmetic: a block of bits is a polynomial over GF(2), bit-reflected (the lowest
// bit of the first byte is the highest power). Carry-less multiplication of reflected operands
// gains one factor x, so moving a 64-bit word up by d bits multiplies it by x^(d-1) mod P.
// Folding is after Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
// Instruction" (Intel, 2009); the three interleaved streams hide the latency of crc32 (3 cycles).
// The functions named Raw work on the raw register: inversions at both ends are the callers'.
#ifndef REPRISE_COMMON_CRC32C_KERNELS_H_
#define REPRISE_COMMON_CRC32C_KERNELS_H_

#include <immintrin.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "common/crc32c_polynomial.h"

namespace reprise::crc32c {

// x^-n mod P: PowerOfX, each step undone.
constexpr uint32_t InversePowerOfX(uint64_t n) {
  uint32_t power = 0x80000000;
  for (; n > 0; --n) {
    power = (power & 0x80000000) != 0 ? ((power ^ kPolynomial) << 1) | 1 : power << 1;
  }
  return power;
}
inline constexpr uint32_t kX33 = PowerOfX(33);
inline constexpr uint32_t kInverseX33 = InversePowerOfX(33);
static_assert(Multiply(kX33, kInverseX33) == PowerOfX(0));

// ---- Portable: eight tables, eight bytes a round. ----

using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables MakeTables() {
  Tables tables{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    tables[0][i] = crc;
  }
  for (uint32_t i = 0; i < 256; ++i) {
    for (int t = 1; t < 8; ++t) {
      tables[t][i] = (tables[t - 1][i] >> 8) ^ tables[0][tables[t - 1][i] & 255];
    }
  }
  return tables;
}
inline constexpr Tables kTables = MakeTables();

template <bool kCopy>
uint32_t TableRaw(uint8_t* dst, const uint8_t* src, size_t n, uint32_t crc) {
  for (; n >= 8; n -= 8, src += 8) {
    uint64_t word;
    std::memcpy(&word, src, 8);
    if constexpr (kCopy) {
      std::memcpy(dst, &word, 8);
      dst += 8;
    }
    word ^= crc;
    crc = 0;
    for (int i = 0; i < 8; ++i) crc ^= kTables[7 - i][(word >> (8 * i)) & 255];
  }
  for (; n > 0; --n) {
    const uint8_t byte = *src++;
    if constexpr (kCopy) *dst++ = byte;
    crc = (crc >> 8) ^ kTables[0][(crc ^ byte) & 255];
  }
  return crc;
}

inline uint32_t TableShift(uint32_t part, uint32_t power) {
  return Multiply(Multiply(part, power), kX33);
}

// ---- SSE4.2 with PCLMULQDQ: three streams of a fixed length, then combined. ----

inline constexpr size_t kStreamBytes = 1024;  // three of them stay well inside the L1 cache
// The product passes through crc32, which multiplies by x^32, and gains the factor x.
inline constexpr uint32_t kShiftOne = PowerOfX(8 * kStreamBytes - 33);
inline constexpr uint32_t kShiftTwo = PowerOfX(16 * kStreamBytes - 33);

template <bool kCopy>
inline uint64_t TakeWord(uint8_t* dst, const uint8_t* src, size_t offset = 0) {
  uint64_t word;
  std::memcpy(&word, src + offset, 8);
  if constexpr (kCopy) std::memcpy(dst + offset, &word, 8);
  return word;
}

__attribute__((target("sse4.2,pclmul"))) inline uint32_t Shift(uint32_t crc, uint32_t power) {
  const __m128i product = _mm_clmulepi64_si128(_mm_cvtsi32_si128(static_cast<int>(crc)),
                                               _mm_cvtsi32_si128(static_cast<int>(power)), 0);
  return static_cast<uint32_t>(_mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(product))));
}

__attribute__((target("sse4.2,pclmul"))) inline uint32_t SseShift(uint32_t part, uint32_t power) {
  return Shift(part, power);
}

template <bool kCopy>
__attribute__((target("sse4.2,pclmul"))) uint32_t SseRaw(uint8_t* dst, const uint8_t* src, size_t n,
                                                         uint32_t seed) {
  uint64_t crc = seed;
  for (; n >= 3 * kStreamBytes; n -= 3 * kStreamBytes) {
    uint64_t second = 0;
    uint64_t third = 0;
    for (size_t i = 0; i < kStreamBytes; i += 8) {
      crc = _mm_crc32_u64(crc, TakeWord<kCopy>(dst, src, i));
      second = _mm_crc32_u64(second, TakeWord<kCopy>(dst, src, kStreamBytes + i));
      third = _mm_crc32_u64(third, TakeWord<kCopy>(dst, src, 2 * kStreamBytes + i));
    }
    crc = Shift(static_cast<uint32_t>(crc), kShiftTwo) ^
          Shift(static_cast<uint32_t>(second), kShiftOne) ^ third;
    src += 3 * kStreamBytes;
    if constexpr (kCopy) dst += 3 * kStreamBytes;
  }
  for (; n >= 8; n -= 8, src += 8) {
    crc = _mm_crc32_u64(crc, TakeWord<kCopy>(dst, src));
    if constexpr (kCopy) dst += 8;
  }
  for (; n > 0; --n) {
    const uint8_t byte = *src++;
    if constexpr (kCopy) *dst++ = byte;
    crc = _mm_crc32_u8(static_cast<uint32_t>(crc), byte);
  }
  return static_cast<uint32_t>(crc);
}

// ---- AVX-512 with VPCLMULQDQ: four accumulators of 64 bytes fold 256 bytes a round. ----

#define REPRISE_AVX512_TARGET __attribute__((target("avx512f,vpclmulqdq,sse4.2,pclmul")))

struct FoldConstants {
  uint64_t low = 0;
  uint64_t high = 0;
};
// Moves 128-bit lanes up by `bits`: low word (the earlier bytes) by bits + 64, high word by bits.
constexpr FoldConstants FoldBy(uint64_t bits) {
  return {uint64_t{PowerOfX(bits + 63)} << 32, uint64_t{PowerOfX(bits - 1)} << 32};
}
inline constexpr FoldConstants kFold2048 = FoldBy(2048);
inline constexpr FoldConstants kFold1024 = FoldBy(1024);
inline constexpr FoldConstants kFold512 = FoldBy(512);

REPRISE_AVX512_TARGET inline __m512i Fold(__m512i lanes, __m512i constants, __m512i next) {
  return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(lanes, constants, 0x00),
                                   _mm512_clmulepi64_epi128(lanes, constants, 0x11), next,
                                   0x96);  // exclusive or of three
}

template <bool kCopy>
REPRISE_AVX512_TARGET inline __m512i TakeVector(uint8_t* dst, const uint8_t* src,
                                                size_t offset = 0) {
  const __m512i bytes = _mm512_loadu_si512(src + offset);
  if constexpr (kCopy) _mm512_storeu_si512(dst + offset, bytes);
  return bytes;
}

// The register after these 64 bytes.
REPRISE_AVX512_TARGET inline uint32_t Reduce(__m512i lanes) {
  alignas(64) uint64_t words[8];
  _mm512_store_si512(words, lanes);
  uint64_t crc = 0;
  for (const uint64_t word : words) crc = _mm_crc32_u64(crc, word);
  return static_cast<uint32_t>(crc);
}

REPRISE_AVX512_TARGET inline __m512i Broadcast(const FoldConstants& by) {
  return _mm512_broadcast_i32x4(
      _mm_set_epi64x(static_cast<int64_t>(by.high), static_cast<int64_t>(by.low)));
}

template <bool kCopy>
REPRISE_AVX512_TARGET uint32_t Avx512Raw(uint8_t* dst, const uint8_t* src, size_t n, uint32_t crc) {
  if (n < 256) return SseRaw<kCopy>(dst, src, n, crc);
  const __m512i fold2048 = Broadcast(kFold2048);
  const __m512i fold512 = Broadcast(kFold512);
  const size_t rounds = n / 256;
  __m512i a = _mm512_xor_si512(TakeVector<kCopy>(dst, src),
                               _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(crc))));
  __m512i b = TakeVector<kCopy>(dst, src, 64);
  __m512i c = TakeVector<kCopy>(dst, src, 128);
  __m512i d = TakeVector<kCopy>(dst, src, 192);
  for (size_t i = 1; i < rounds; ++i) {
    src += 256;
    if constexpr (kCopy) dst += 256;
    a = Fold(a, fold2048, TakeVector<kCopy>(dst, src));
    b = Fold(b, fold2048, TakeVector<kCopy>(dst, src, 64));
    c = Fold(c, fold2048, TakeVector<kCopy>(dst, src, 128));
    d = Fold(d, fold2048, TakeVector<kCopy>(dst, src, 192));
  }
  src += 256;
  if constexpr (kCopy) dst += 256;
  n -= rounds * 256;
  a = Fold(Fold(Fold(a, fold512, b), fold512, c), fold512, d);
  for (; n >= 64; n -= 64, src += 64) {
    a = Fold(a, fold512, TakeVector<kCopy>(dst, src));
    if constexpr (kCopy) dst += 64;
  }
  return SseRaw<kCopy>(dst, src, n, Reduce(a));
}

}  // namespace reprise::crc32c

#endif  // REPRISE_COMMON_CRC32C_KERNELS_H_
