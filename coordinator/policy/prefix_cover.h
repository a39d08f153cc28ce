// Which leading blocks of a request usable nodes hold together, how many each leads with, and from
// whom to fetch them in few ranges. Views the holders it is built from. A value; any thread.
#ifndef REPRISE_COORDINATOR_POLICY_PREFIX_COVER_H_
#define REPRISE_COORDINATOR_POLICY_PREFIX_COVER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "coordinator/core/types.h"

namespace reprise::coordinator {

class PrefixCover {
 public:
  // `holders`: ascending slots per leading block; `usable`: by slot, beyond its end false.
  PrefixCover(std::span<const std::span<const Slot>> holders, std::vector<bool> usable);

  // Leading blocks that at least one usable node holds each.
  int64_t covered() const { return covered_; }
  // Leading blocks `slot` holds itself without a hole, at most covered(). 0 when not usable.
  int64_t Leading(Slot slot) const { return slot < leading_.size() ? leading_[slot] : 0; }

  struct Range {
    Slot slot = 0;
    int64_t first = 0;
    int64_t blocks = 0;
    bool operator==(const Range&) const = default;
  };
  // Ranges that make up [Leading(reader), covered()), in order, the longest run first at each point
  // (the fewest ranges there are), ties to the lower `preference` (by slot). Runs the reader
  // holds itself are passed over. Ends early after `ranges_max`.
  std::vector<Range> Ranges(Slot reader, std::span<const size_t> preference,
                            size_t ranges_max) const;

 private:
  bool Usable(Slot slot) const { return slot < usable_.size() && usable_[slot]; }
  // The best run from block `at` on.
  Range LongestRun(int64_t at, Slot reader, std::span<const size_t> preference) const;

  std::span<const std::span<const Slot>> holders_;
  std::vector<bool> usable_;
  int64_t covered_ = 0;
  std::vector<int64_t> leading_;  // by slot
};

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_POLICY_PREFIX_COVER_H_
