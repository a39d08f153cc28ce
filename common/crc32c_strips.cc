// With AVX-512 the strips are folded as they pass (crc32c_kernels.h): two accumulators of 64 bytes
// for the packed bytes and two for the places, which only move further from strip to strip. One
// reduction at the end replaces a dependent chain of crc32 instructions: what remains is the
// memory.
#include "common/crc32c_strips.h"

#include <string_view>

#include "common/crc32c_kernels.h"

namespace reprise {
namespace {

using namespace crc32c;  // its kernels

constexpr size_t kLineBytes = 64;
constexpr size_t kPairBytes = 128;  // two vectors

inline void ApproachBytes(const uint8_t* at, size_t n) {
  for (size_t i = 0; i < n; i += kLineBytes) __builtin_prefetch(at + i);
}

template <uint32_t (*kCopy)(uint8_t*, const uint8_t*, size_t, uint32_t)>
uint32_t GatherEach(void* dst, const void* src, const Crc32cStrips& strips, uint32_t seed,
                    const void* soon) {
  auto* to = static_cast<uint8_t*>(dst);
  const auto* from = static_cast<const uint8_t*>(src);
  const auto* next = static_cast<const uint8_t*>(soon);
  uint32_t crc = ~seed;
  for (size_t i = 0; i < strips.count; ++i) {
    if (next != nullptr) ApproachBytes(next + i * strips.stride, strips.bytes);
    crc = kCopy(to + i * strips.bytes, from + i * strips.stride, strips.bytes, crc);
  }
  return ~crc;
}

template <uint32_t (*kCopy)(uint8_t*, const uint8_t*, size_t, uint32_t),
          uint32_t (*kShift)(uint32_t, uint32_t)>
Crc32cScattered ScatterEach(void* dst, const void* src, const Crc32cStrips& strips,
                            const Crc32cStripPowers& powers, uint32_t seed, const void* soon) {
  auto* to = static_cast<uint8_t*>(dst);
  const auto* from = static_cast<const uint8_t*>(src);
  const auto* next = static_cast<const uint8_t*>(soon);
  uint32_t crc = ~seed;
  uint32_t part = 0;
  for (size_t i = 0; i < strips.count; ++i) {
    if (next != nullptr) ApproachBytes(next + i * strips.stride, strips.bytes);
    const uint32_t own = kCopy(to + i * strips.stride, from + i * strips.bytes, strips.bytes, 0);
    crc = kShift(crc, powers.past_strip) ^ own;
    part = kShift(part, powers.past_stride) ^ own;
  }
  return {.crc = ~crc, .part = part};
}

// ---- AVX-512, for strips of whole pairs of vectors. ----

REPRISE_AVX512_TARGET uint32_t GatherVectors(void* dst, const void* src, const Crc32cStrips& strips,
                                             uint32_t seed, const void* soon) {
  if (strips.bytes % kPairBytes != 0) return GatherEach<SseRaw<true>>(dst, src, strips, seed, soon);
  auto* to = static_cast<uint8_t*>(dst);
  const auto* next = static_cast<const uint8_t*>(soon);
  const __m512i fold1024 = Broadcast(kFold1024);
  __m512i a = _mm512_setzero_si512();
  __m512i b = _mm512_setzero_si512();
  __m512i before = _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(~seed)));
  for (size_t i = 0; i < strips.count; ++i) {
    if (next != nullptr) ApproachBytes(next + i * strips.stride, strips.bytes);
    const auto* from = static_cast<const uint8_t*>(src) + i * strips.stride;
    for (size_t at = 0; at < strips.bytes; at += kPairBytes, to += kPairBytes) {
      const __m512i first = TakeVector<true>(to, from + at);
      a = Fold(a, fold1024, _mm512_xor_si512(first, before));
      b = Fold(b, fold1024, TakeVector<true>(to + kLineBytes, from + at + kLineBytes));
      before = _mm512_setzero_si512();
    }
  }
  if (strips.count == 0) return seed;
  return ~Reduce(Fold(a, Broadcast(kFold512), b));
}

REPRISE_AVX512_TARGET Crc32cScattered ScatterVectors(void* dst, const void* src,
                                                     const Crc32cStrips& strips,
                                                     const Crc32cStripPowers& powers, uint32_t seed,
                                                     const void* soon) {
  if (strips.bytes % kPairBytes != 0) {
    return ScatterEach<SseRaw<true>, SseShift>(dst, src, strips, powers, seed, soon);
  }
  const auto* from = static_cast<const uint8_t*>(src);
  const auto* next = static_cast<const uint8_t*>(soon);
  const __m512i fold1024 = Broadcast(kFold1024);
  const __m512i fold_to_next = Broadcast({powers.fold_low, powers.fold_high});
  __m512i packed_a = _mm512_setzero_si512();
  __m512i packed_b = _mm512_setzero_si512();
  __m512i placed_a = _mm512_setzero_si512();
  __m512i placed_b = _mm512_setzero_si512();
  for (size_t i = 0; i < strips.count; ++i) {
    if (next != nullptr) ApproachBytes(next + i * strips.stride, strips.bytes);
    auto* const to = static_cast<uint8_t*>(dst) + i * strips.stride;
    __m512i fold_placed = fold_to_next;
    for (size_t at = 0; at < strips.bytes; at += kPairBytes, from += kPairBytes) {
      const __m512i first = TakeVector<true>(to + at, from);
      const __m512i second = TakeVector<true>(to + at + kLineBytes, from + kLineBytes);
      packed_a = Fold(packed_a, fold1024, first);
      packed_b = Fold(packed_b, fold1024, second);
      placed_a = Fold(placed_a, fold_placed, first);
      placed_b = Fold(placed_b, fold_placed, second);
      fold_placed = fold1024;
    }
  }
  const __m512i fold512 = Broadcast(kFold512);
  const uint32_t packed = Reduce(Fold(packed_a, fold512, packed_b));
  return {.crc = ~(Shift(~seed, powers.past_all) ^ packed),
          .part = Reduce(Fold(placed_a, fold512, placed_b))};
}

std::vector<Crc32cStripsImplementation> Supported() {
  std::vector<Crc32cStripsImplementation> supported;
  for (const Crc32cImplementation& known : Crc32cImplementations()) {
    const std::string_view name = known.name;
    if (name == "avx512") {
      supported.push_back({known.name, GatherVectors, ScatterVectors});
    } else if (name == "sse4.2") {
      supported.push_back(
          {known.name, GatherEach<SseRaw<true>>, ScatterEach<SseRaw<true>, SseShift>});
    } else {
      supported.push_back(
          {known.name, GatherEach<TableRaw<true>>, ScatterEach<TableRaw<true>, TableShift>});
    }
  }
  return supported;
}

const Crc32cStripsImplementation& Best() {
  static const Crc32cStripsImplementation best = Crc32cStripsImplementations().front();
  return best;
}

}  // namespace

const std::vector<Crc32cStripsImplementation>& Crc32cStripsImplementations() {
  static const auto& supported = *new std::vector<Crc32cStripsImplementation>(Supported());
  return supported;
}

void Approach(const void* first, const Crc32cStrips& strips) {
  for (size_t i = 0; i < strips.count; ++i) {
    ApproachBytes(static_cast<const uint8_t*>(first) + i * strips.stride, strips.bytes);
  }
}

uint32_t Crc32cGather(void* dst, const void* src, const Crc32cStrips& strips, uint32_t seed,
                      const void* soon) {
  return Best().gather(dst, src, strips, seed, soon);
}

Crc32cStripPowers PowersOf(const Crc32cStrips& strips) {
  const auto past = [](size_t bytes) { return Multiply(kInverseX33, PowerOfX(8 * bytes)); };
  const FoldConstants fold = FoldBy(8 * (strips.stride - strips.bytes + kPairBytes));
  return {.past_strip = past(strips.bytes),
          .past_stride = past(strips.stride),
          .past_all = past(strips.count * strips.bytes),
          .fold_low = fold.low,
          .fold_high = fold.high};
}

Crc32cScattered Crc32cScatterer::Scatter(void* dst, const void* src, uint32_t seed,
                                         const void* soon) const {
  return Best().scatter(dst, src, strips_, powers_, seed, soon);
}

}  // namespace reprise
