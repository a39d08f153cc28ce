#include "worker/engine/sort_logits.h"

#include <array>
#include <bit>
#include <cstdint>
#include <limits>

namespace reprise::worker {
namespace {

constexpr int kDigitBits = 11;
constexpr int kDigits = 3;  // 33 bits cover the key
constexpr uint32_t kBuckets = 1u << kDigitBits;

// Ascending keys mean descending logits. Adding +0 turns -0 into +0.
uint32_t KeyOf(float logit) {
  const auto bits = std::bit_cast<uint32_t>(logit + 0.0f);
  return (bits & 0x80000000u) != 0 ? bits : ~(bits | 0x80000000u);
}

uint32_t Digit(float logit, int digit) {
  return KeyOf(logit) >> (digit * kDigitBits) & (kBuckets - 1);
}

}  // namespace

void SortLogits(std::span<const float> logits, std::vector<kernels::Candidate>* sorted) {
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  std::vector<kernels::Candidate> from;
  from.reserve(logits.size());
  std::array<std::array<uint32_t, kBuckets>, kDigits> counts{};
  for (size_t id = 0; id < logits.size(); ++id) {
    if (!(logits[id] > kLowest)) continue;
    from.push_back({logits[id], static_cast<int32_t>(id)});
    for (int d = 0; d < kDigits; ++d) ++counts[static_cast<size_t>(d)][Digit(logits[id], d)];
  }
  sorted->resize(from.size());
  // Least digit first; each pass is stable, so equal logits stay in order of id.
  for (int d = 0; d < kDigits; ++d) {
    std::array<uint32_t, kBuckets>& starts = counts[static_cast<size_t>(d)];
    uint32_t start = 0;
    for (uint32_t& count : starts) {
      const uint32_t next = start + count;
      count = start;
      start = next;
    }
    for (const kernels::Candidate& c : from) (*sorted)[starts[Digit(c.logit, d)]++] = c;
    from.swap(*sorted);
  }
  from.swap(*sorted);
}

}  // namespace reprise::worker
