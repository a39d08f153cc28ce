// What computes a rank's share of a model: the CPU or a device. The pages it works on are the
// rank's own part of the group's, in host memory; where it computes elsewhere it has copies of its
// own. Owned by the RankModel; one thread.
#ifndef REPRISE_WORKER_GROUP_SHARE_COMPUTE_H_
#define REPRISE_WORKER_GROUP_SHARE_COMPUTE_H_

#include <cstdint>
#include <functional>
#include <span>

#include "common/clock.h"
#include "common/status.h"
#include "worker/engine/executor.h"
#include "worker/group/group_links.h"

namespace reprise::worker {

class ShareCompute {
 public:
  virtual ~ShareCompute() = default;

  // Pages of the share's part from `base` on, which outlive their use; again for another number.
  virtual Status AttachPool(uint8_t* base, int32_t pages) = 0;
  // The page holds what the driver has given.
  virtual void OnPageGiven(int32_t page) = 0;
  virtual void SetTick(std::function<void()> tick) = 0;

  // How communicators are joined whose operands lie where this computes; empty: as all others.
  virtual LinkMaker link_maker() { return nullptr; }
  // `links` outlives its use.
  virtual Status SetLinks(const GroupLinks& links) = 0;

  // Items name this rank's pages. `layer_done` gets the share's layers, counted from 0, whose rows
  // are in the host's pages then. After an error nothing computed since is of use.
  virtual Status Forward(std::span<const StepItem> items, const Executor::LayerDone& layer_done,
                         TimeNs deadline_ns) = 0;
  // Waits until the next stage has what the last Forward gave.
  virtual Status Settle(TimeNs deadline_ns) = 0;
  // Of the last Forward, by output that this rank has: the share's part of the vocabulary.
  virtual std::span<const float> logits(int64_t output) const = 0;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_SHARE_COMPUTE_H_
