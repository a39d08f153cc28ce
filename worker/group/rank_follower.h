// A rank other than the driver, in one epoch of its group: takes the driver's orders one after
// another, computes its share and sends rows and logits back. Owned by the rank's server; one
// thread.
#ifndef REPRISE_WORKER_GROUP_RANK_FOLLOWER_H_
#define REPRISE_WORKER_GROUP_RANK_FOLLOWER_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "worker/group/group_links.h"
#include "worker/group/rank_model.h"
#include "worker/group/step_order.h"

namespace reprise::worker {

struct RankCounters {
  std::atomic<uint64_t> steps{0};
  std::atomic<uint64_t> rows{0};
  std::atomic<uint64_t> pages_loaded{0};
};

class RankFollower {
 public:
  // All outlive it; `links` are destroyed before it, so that what is under way is quiet.
  RankFollower(RankModel& model, const GroupLinks& links, RankCounters& counters)
      : model_(model), links_(links), counters_(counters) {}

  // Until the epoch ends: why.
  Status Follow();

 private:
  Status TakeStep();
  Status TakeLoads(const StepOrder& order, TimeNs deadline_ns);
  Status RunPart(std::span<const StepItem> items, TimeNs deadline_ns);
  Status SendLogits(std::span<const StepItem> items);
  // Kept until the part is done.
  std::vector<uint8_t>& NextBuffer(size_t bytes);
  Status StartSend(std::span<const uint8_t> bytes);

  RankModel& model_;
  const GroupLinks& links_;
  RankCounters& counters_;
  std::vector<uint8_t> order_bytes_;
  std::deque<std::vector<uint8_t>> buffers_;  // of the part, in use from the front
  size_t buffers_used_ = 0;
  std::vector<parallel::ExchangeId> sending_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_RANK_FOLLOWER_H_
