#include "kvstore/block/replica_choice.h"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace reprise::kv {
namespace {

// FNV-1a, then the finalizer of SplitMix64: FNV alone leaves names that differ in their last
// letter with scores that differ in few bits.
uint64_t Fnv1a(uint64_t hash, absl::string_view text) {
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return hash;
}

uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

uint64_t RendezvousScore(absl::string_view key, absl::string_view node) {
  constexpr uint64_t kBasis = 0xcbf29ce484222325u;
  return Mix(Mix(Fnv1a(kBasis, key)) + Mix(Fnv1a(kBasis, node) ^ 0x9e3779b97f4a7c15u));
}

std::vector<size_t> PickReplicas(absl::string_view request_id, std::set<std::string> used_domains,
                                 const std::vector<ReplicaCandidate>& stores, int count) {
  std::vector<size_t> left(stores.size());
  std::iota(left.begin(), left.end(), size_t{0});
  std::vector<size_t> picked;
  while (static_cast<int>(picked.size()) < count && !left.empty()) {
    const auto rank = [&](size_t i) {
      const bool shared = !stores[i].failure_domain.empty() &&
                          used_domains.contains(std::string(stores[i].failure_domain));
      return std::tuple(shared, ~RendezvousScore(request_id, stores[i].name), stores[i].name);
    };
    const auto best = std::min_element(left.begin(), left.end(),
                                       [&](size_t a, size_t b) { return rank(a) < rank(b); });
    picked.push_back(*best);
    used_domains.insert(std::string(stores[*best].failure_domain));
    left.erase(best);
  }
  return picked;
}

}  // namespace reprise::kv
