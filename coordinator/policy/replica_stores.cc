#include "coordinator/policy/replica_stores.h"

#include <algorithm>
#include <set>
#include <tuple>

namespace reprise::coordinator {
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

std::vector<const NodeInfo*> PickStores(const std::string& request_id,
                                        const std::string& decode_domain,
                                        std::vector<const NodeInfo*> stores, int count) {
  std::set<std::string> used;
  if (!decode_domain.empty()) used.insert(decode_domain);
  std::vector<const NodeInfo*> picked;
  while (static_cast<int>(picked.size()) < count && !stores.empty()) {
    const auto rank = [&](const NodeInfo* store) {
      const uint64_t score = RendezvousScore(request_id, store->ref.key.name);
      return std::tuple(used.contains(store->failure_domain), ~score,
                        absl::string_view(store->ref.key.name));
    };
    const auto best =
        std::min_element(stores.begin(), stores.end(),
                         [&](const auto* a, const auto* b) { return rank(a) < rank(b); });
    picked.push_back(*best);
    if (!(*best)->failure_domain.empty()) used.insert((*best)->failure_domain);
    stores.erase(best);
  }
  return picked;
}

}  // namespace reprise::coordinator
