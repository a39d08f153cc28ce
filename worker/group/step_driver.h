// The driver's side of an epoch: has all ranks make one step, computes rank 0's share of it and
// puts everybody's KV rows into whole pages and everybody's logits together. Owned by the
// GroupExecutor; one thread.
//
// Invariants:
// 1. The whole pages are the group's truth: what a rank holds can be cut from them again.
// 2. A layer is done when its rows of every rank are in the whole pages.
// 3. After a failure memory is quiet once the links are gone; the step may be made again.
#ifndef REPRISE_WORKER_GROUP_STEP_DRIVER_H_
#define REPRISE_WORKER_GROUP_STEP_DRIVER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "worker/group/group_links.h"
#include "worker/group/rank_model.h"
#include "worker/group/step_order.h"

namespace reprise::worker {

// What the driver must know of every rank.
struct RankShare {
  kv::RankPlace place;
  PartRows rows;
  bool sends_rows = true;  // SendsRows
  bool last_stage = true;
  Span vocab;
};

struct WholePages {
  uint8_t* base = nullptr;
  size_t page_bytes = 0;
  uint8_t* Page(int32_t page) const { return base + static_cast<size_t>(page) * page_bytes; }
};

// How long a step may take in all, on every rank: the driver says it with the order. What is dead
// or stands still is found by others, long before.
inline constexpr TimeNs kGroupStepNs = 10 * kMinute;

class StepDriver {
 public:
  // All outlive it but `links`, which go first.
  StepDriver(RankModel& own, const std::vector<RankShare>& shares, const GroupLinks& links,
             const WholePages& pages)
      : own_(own), shares_(shares), links_(links), pages_(pages) {}

  // `layer_done` as Executor's; `tick` between. logits: [items that want output, vocab].
  Status Run(const StepOrder& order, std::span<const StepItem> items,
             const Executor::LayerDone& layer_done, const std::function<void()>& tick,
             std::vector<float>* logits);

 private:
  // What a rank sends of one part of the step.
  struct Incoming {
    std::vector<parallel::ExchangeId> layers;  // of its stage, in order
    std::vector<std::vector<uint8_t>> bytes;   // by layer
    std::vector<size_t> outputs;               // of the part's
    parallel::ExchangeId logits = 0;
    std::vector<float> values;  // [outputs, share of the vocabulary]
  };
  struct Part {
    std::span<const StepItem> items;
    size_t first_output = 0;                  // in the step
    std::vector<std::vector<PageRows>> rows;  // by context rank
    std::vector<Incoming> ranks;
  };

  Status SendOrder(const StepOrder& order, TimeNs deadline_ns);
  Status SendLoads(const StepOrder& order, TimeNs deadline_ns);
  Status Post(Part& part);
  Status RunOwn(Part& part, bool last, const Executor::LayerDone& layer_done,
                const std::function<void()>& tick, TimeNs deadline_ns);
  // Rows of the layer that the ranks of its stage, rank 0 aside, sent.
  Status Take(Part& part, uint32_t stage, uint32_t layer, TimeNs deadline_ns);
  void KeepOwnRows(const Part& part, uint32_t layer);
  Status TakeLogits(Part& part, TimeNs deadline_ns, std::vector<float>* logits);
  void KeepLogits(const Part& part, const RankShare& share, std::span<const size_t> outputs,
                  const std::function<std::span<const float>(size_t)>& values,
                  std::vector<float>* logits) const;

  RankModel& own_;
  const std::vector<RankShare>& shares_;
  const GroupLinks& links_;
  const WholePages pages_;
  std::string header_;
  std::string order_bytes_;
  std::vector<Part> parts_;
  std::deque<std::vector<uint8_t>> loads_;
  std::vector<uint8_t> own_rows_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_STEP_DRIVER_H_
