#include "common/random.h"

#include <sys/random.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace reprise {

std::array<uint8_t, 16> RandomBytes16() {
  std::array<uint8_t, 16> bytes;
  // Requests up to 256 bytes are not cut short; only a signal before the pool is ready interrupts.
  ssize_t n;
  do {
    n = getrandom(bytes.data(), bytes.size(), 0);
  } while (n < 0 && errno == EINTR);
  // Without entropy a resume handle would be guessable and an incarnation could repeat.
  if (n != static_cast<ssize_t>(bytes.size())) std::abort();
  return bytes;
}

uint64_t RandomU64() {
  const auto bytes = RandomBytes16();
  uint64_t value;
  std::memcpy(&value, bytes.data(), sizeof(value));
  return value;
}

}  // namespace reprise
