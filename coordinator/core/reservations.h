// What placements have promised of a node and the node's reports do not show yet, so that a burst
// does not pile on the node that looked best when it began. Owned by the coordinator core; one
// thread at a time.
//
// A reservation ends when the node reports the request as its own, when the node reports anything
// `settle_ns` after the placement (the request came and went, or never came), or after `expire_ns`.
#ifndef REPRISE_COORDINATOR_CORE_RESERVATIONS_H_
#define REPRISE_COORDINATOR_CORE_RESERVATIONS_H_

#include <map>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "coordinator/core/types.h"
#include "coordinator/policy/placement.h"

namespace reprise::coordinator {

struct ReservationOptions {
  TimeNs settle_ns = 500 * kMillisecond;
  TimeNs expire_ns = 2 * kSecond;
  size_t per_node_max = 16'384;  // the oldest go first
};

class Reservations {
 public:
  explicit Reservations(const ReservationOptions& options) : options_(options) {}

  void Add(Slot slot, const std::string& request_id, const Reserved& reserved, TimeNs now);
  void OnReport(Slot slot, std::span<const RequestReport> requests, TimeNs now);
  void Tick(TimeNs now);
  void Drop(Slot slot) { nodes_.erase(slot); }

  Reserved Of(Slot slot) const;

 private:
  struct Entry {
    std::string request_id;
    Reserved reserved;
    TimeNs placed_ns = 0;
  };
  struct PerNode {
    std::vector<Entry> entries;  // oldest first
    Reserved sum;
  };
  template <typename Predicate>
  static void EraseIf(PerNode& node, Predicate ended);

  const ReservationOptions options_;
  std::map<Slot, PerNode> nodes_;
};

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_CORE_RESERVATIONS_H_
