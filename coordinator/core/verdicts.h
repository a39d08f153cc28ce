// The incarnations given up in the last minute, as nodes are told of them. Owned by the coordinator
// core; one thread at a time.
//
// Invariants:
// 1. An incarnation is named at most once, by the last reason; the oldest verdict is first.
// 2. The version changes when a verdict is added. One that ends (its node lives again, or its time
//    is over) leaves without a new version: nobody has to act on that.
// 3. At most limits::kVerdictsMax; the oldest go first.
#ifndef REPRISE_COORDINATOR_CORE_VERDICTS_H_
#define REPRISE_COORDINATOR_CORE_VERDICTS_H_

#include <deque>
#include <string>

#include "common/clock.h"
#include "coordinator/core/types.h"

namespace reprise::coordinator {

class Verdicts {
 public:
  // Versions count from `first_version`.
  explicit Verdicts(uint64_t first_version) : version_(first_version) {}

  void Issue(const NodeKey& node, const std::string& reason, TimeNs now);
  // The node lives again. Whoever heard of the verdict has acted on it; whoever has not need not.
  void Withdraw(const NodeKey& node);
  void Tick(TimeNs now);

  uint64_t version() const { return version_; }
  VersionedList<Verdict> List() const;

 private:
  struct Entry {
    Verdict verdict;
    TimeNs issued_ns = 0;
  };
  uint64_t version_;
  std::deque<Entry> entries_;
};

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_CORE_VERDICTS_H_
