// Copies strips, pieces of one length at one distance from each other, together and apart again, in
// one pass with their CRC-32C (crc32c.h). The rows of one token are such strips: a cache line or
// two for every head and field, a page or more apart. No processor looks ahead over such distances
// by itself, so the caller names the strips that come next and they are fetched meanwhile. Any
// thread.
#ifndef REPRISE_COMMON_CRC32C_STRIPS_H_
#define REPRISE_COMMON_CRC32C_STRIPS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/crc32c.h"

namespace reprise {

struct Crc32cStrips {
  size_t count = 0;
  size_t bytes = 0;   // of one, at least 1
  size_t stride = 0;  // from the begin of one to that of the next, at least `bytes`
};

// Asks for the strips' cache lines. Harmless for any address.
void Approach(const void* first, const Crc32cStrips& strips);

// Strips at `src`, one behind the other into `dst`. Returns the checksum of these bytes, continuing
// `seed`. `soon`: strips like these that are read next; null: none.
uint32_t Crc32cGather(void* dst, const void* src, const Crc32cStrips& strips, uint32_t seed,
                      const void* soon);

struct Crc32cScattered {
  uint32_t crc = 0;  // of the packed bytes, continuing the seed
  uint32_t part =
      0;  // of the strips in their places with zeros between, as seen from the last's end
};

// What scattering strips of one shape takes. Powers as Crc32cImplementation::shift wants them.
struct Crc32cStripPowers {
  uint32_t past_strip = 0;
  uint32_t past_stride = 0;
  uint32_t past_all = 0;  // strips, without what is between them
  uint64_t fold_low = 0;  // from the end of a strip to 128 bytes into the next
  uint64_t fold_high = 0;
};
Crc32cStripPowers PowersOf(const Crc32cStrips& strips);

// Strips of one shape, to be written. Constant after construction.
class Crc32cScatterer {
 public:
  explicit Crc32cScatterer(const Crc32cStrips& strips)
      : strips_(strips), powers_(PowersOf(strips)) {}

  // Bytes one behind the other at `src` into strips at `dst`. `soon`: those that are written next.
  Crc32cScattered Scatter(void* dst, const void* src, uint32_t seed, const void* soon) const;

  const Crc32cStrips& strips() const { return strips_; }

 private:
  Crc32cStrips strips_;
  Crc32cStripPowers powers_;
};

// One implementation, exposed so that tests can compare them.
struct Crc32cStripsImplementation {
  const char* name;
  uint32_t (*gather)(void* dst, const void* src, const Crc32cStrips& strips, uint32_t seed,
                     const void* soon);
  Crc32cScattered (*scatter)(void* dst, const void* src, const Crc32cStrips& strips,
                             const Crc32cStripPowers& powers, uint32_t seed, const void* soon);
};
const std::vector<Crc32cStripsImplementation>& Crc32cStripsImplementations();

}  // namespace reprise

#endif  // REPRISE_COMMON_CRC32C_STRIPS_H_
