// Randomness: the operating system's for secrets, incarnations and absent seeds; SplitMix64 for
// reproducible tests and simulation. RandomU64 and RandomBytes16 on any thread; a SplitMix64
// belongs to one thread.
#ifndef REPRISE_COMMON_RANDOM_H_
#define REPRISE_COMMON_RANDOM_H_

#include <array>
#include <cstdint>

namespace reprise {

uint64_t RandomU64();
std::array<uint8_t, 16> RandomBytes16();

// Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014. Satisfies
// UniformRandomBitGenerator, but prefer Below and Chance: std distributions differ by library.
class SplitMix64 {
 public:
  using result_type = uint64_t;
  explicit SplitMix64(uint64_t seed) : state_(seed) {}
  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return UINT64_MAX; }
  uint64_t operator()() { return Next(); }

  uint64_t Next() {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // In [0, bound); 0 for bound 0. Bias below bound / 2^64.
  uint64_t Below(uint64_t bound) {
    return static_cast<uint64_t>(static_cast<unsigned __int128>(Next()) * bound >> 64);
  }
  // In [0, 1), 53 bits.
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  bool Chance(double probability) { return Uniform() < probability; }
  // An independent generator; this one moves on.
  SplitMix64 Split() { return SplitMix64(Next()); }

 private:
  uint64_t state_;
};

}  // namespace reprise

#endif  // REPRISE_COMMON_RANDOM_H_
