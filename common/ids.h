// Names of processes and requests. Values; any thread.
//
// Invariants:
// 1. An incarnation is drawn at random when a process starts and is never zero.
// 2. Attempts of one request are totally ordered: first by owner epoch, then by n.
#ifndef REPRISE_COMMON_IDS_H_
#define REPRISE_COMMON_IDS_H_

#include <compare>
#include <cstdint>
#include <string>

namespace reprise {

struct NodeKey {
  std::string name;
  uint64_t incarnation = 0;
  auto operator<=>(const NodeKey&) const = default;
};

struct Attempt {
  uint64_t owner_epoch = 0;
  uint32_t n = 0;
  auto operator<=>(const Attempt&) const = default;
};

struct RequestKey {
  std::string id;
  Attempt attempt;
  auto operator<=>(const RequestKey&) const = default;
};

}  // namespace reprise

#endif  // REPRISE_COMMON_IDS_H_
