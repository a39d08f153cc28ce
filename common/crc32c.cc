#include "common/crc32c.h"

#include "common/crc32c_kernels.h"

namespace reprise {
namespace {

using namespace crc32c;  // its kernels

// The implementations work on the raw register; the inversions at both ends are done once, here.
template <uint32_t (*kRaw)(uint8_t*, const uint8_t*, size_t, uint32_t)>
uint32_t CrcOnly(const void* data, size_t n, uint32_t seed) {
  return ~kRaw(nullptr, static_cast<const uint8_t*>(data), n, ~seed);
}
template <uint32_t (*kRaw)(uint8_t*, const uint8_t*, size_t, uint32_t)>
uint32_t CrcAndCopy(void* dst, const void* src, size_t n, uint32_t seed) {
  return ~kRaw(static_cast<uint8_t*>(dst), static_cast<const uint8_t*>(src), n, ~seed);
}

template <uint32_t (*kCrc)(uint8_t*, const uint8_t*, size_t, uint32_t),
          uint32_t (*kCopy)(uint8_t*, const uint8_t*, size_t, uint32_t),
          uint32_t (*kShift)(uint32_t, uint32_t)>
constexpr Crc32cImplementation Implementation(const char* name) {
  return {name, CrcOnly<kCrc>, CrcAndCopy<kCopy>, kShift};
}

std::vector<Crc32cImplementation> Supported() {
  std::vector<Crc32cImplementation> supported;
  const bool sse = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
  if (sse && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq")) {
    supported.push_back(Implementation<Avx512Raw<false>, Avx512Raw<true>, SseShift>("avx512"));
  }
  if (sse) supported.push_back(Implementation<SseRaw<false>, SseRaw<true>, SseShift>("sse4.2"));
  supported.push_back(Implementation<TableRaw<false>, TableRaw<true>, TableShift>("table"));
  return supported;
}

const Crc32cImplementation& Best() {
  static const Crc32cImplementation best = Crc32cImplementations().front();
  return best;
}

}  // namespace

const std::vector<Crc32cImplementation>& Crc32cImplementations() {
  static const auto& supported = *new std::vector<Crc32cImplementation>(Supported());
  return supported;
}

uint32_t Crc32c(const void* data, size_t n, uint32_t seed) { return Best().crc(data, n, seed); }

uint32_t Crc32cCopy(void* dst, const void* src, size_t n, uint32_t seed) {
  return Best().copy(dst, src, n, seed);
}

Crc32cShift::Crc32cShift(uint64_t bytes) : power_(Multiply(kInverseX33, PowerOfX(8 * bytes))) {}

uint32_t Crc32cShift::operator()(uint32_t part) const { return Best().shift(part, power_); }

}  // namespace reprise
