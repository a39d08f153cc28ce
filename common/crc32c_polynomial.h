// The polynomial of CRC-32C and arithmetic modulo it, reflected: bit 31 is x^0. For those who
// compute checksums from parts (crc32c.h), at compile time above all. Pure; any thread.
#ifndef REPRISE_COMMON_CRC32C_POLYNOMIAL_H_
#define REPRISE_COMMON_CRC32C_POLYNOMIAL_H_

#include <cstdint>

namespace reprise::crc32c {

inline constexpr uint32_t kPolynomial = 0x82f63b78;  // reflected, without its highest power

// The product modulo P, reflected.
constexpr uint32_t Multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (; a != 0; a <<= 1) {
    if ((a & 0x80000000) != 0) product ^= b;
    b = (b >> 1) ^ ((b & 1) != 0 ? kPolynomial : 0);
  }
  return product;
}

// x^n mod P, reflected: bit 31 is x^0. By squares, for any n.
constexpr uint32_t PowerOfX(uint64_t n) {
  uint32_t power = 0x80000000;
  for (uint32_t square = 0x40000000; n > 0; n >>= 1, square = Multiply(square, square)) {
    if ((n & 1) != 0) power = Multiply(power, square);
  }
  return power;
}

}  // namespace reprise::crc32c

#endif  // REPRISE_COMMON_CRC32C_POLYNOMIAL_H_
