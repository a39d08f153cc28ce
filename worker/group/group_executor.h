// A group of ranks behind the engine's Executor interface: the worker's process is rank 0 and
// drives the others, which are processes of their own (rank_server.h). Owned by the engine; the
// step thread calls it, a thread of its own watches the ranks.
//
// Invariants:
// 1. The engine's pool holds whole pages and is the group's truth. Ranks hold parts of what they
//    computed or were given; a page that somebody else wrote, or that a new epoch has not seen, is
//    given to them before it is read.
// 2. A step that a rank's death broke is made again in the next epoch, with a spare or the
//    restarted process in its place: nobody outside sees more than a pause. While that takes,
//    nothing ticks.
// 3. Run fails with UNAVAILABLE when the group cannot be formed within `recover_ns` or this process
//    stops, and with FAILED_PRECONDITION when a later driver has its ranks: it is of no use then.
#ifndef REPRISE_WORKER_GROUP_GROUP_EXECUTOR_H_
#define REPRISE_WORKER_GROUP_GROUP_EXECUTOR_H_

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "common/metrics.h"
#include "common/mutex.h"
#include "common/role.h"
#include "common/thread.h"
#include "worker/engine/executor.h"
#include "worker/engine/sampling.h"
#include "worker/group/group_members.h"
#include "worker/group/rank_model.h"
#include "worker/group/step_driver.h"
#include "worker/parallel/ucx_group.h"

namespace reprise::worker {

struct GroupOptions {
  std::string owner;  // the worker's name
  kv::GroupSplit split;
  std::vector<std::string> ranks;  // gRPC addresses; more than places are spares
  parallel::UcxGroupOptions transport;
  ModelExecutorOptions model;
  ComputeOn on;
  TimeNs form_ns = 120 * kSecond;    // for the first epoch
  TimeNs recover_ns = 20 * kSecond;  // for a later one
  TimeNs look_ns = kGroupLookNs;
  TimeNs connect_ns = kGroupConnectNs;
  // Of the process; null: none. It ends the forming of the first epoch, before which there is
  // nothing to bring to an end; later ones may serve what is left. Outlives the executor.
  StopSignal* stop = nullptr;
};

class GroupExecutor final : public Executor {
 public:
  // Loads rank 0's share and forms the first epoch once the pool is attached. `metrics` may be
  // null; it is not scraped after the executor is gone.
  static StatusOr<std::unique_ptr<GroupExecutor>> Create(const GroupOptions& options,
                                                         MetricsRegistry* metrics);
  ~GroupExecutor() override;

  const ExecutorInfo& info() const override { return info_; }
  void AttachPool(uint8_t* base, int32_t pages) override;
  void SetTick(Tick tick) override;
  void OnPagesReplaced(std::span<const int32_t> pages) override;
  Status Run(std::span<const StepItem> items, const LayerDone& layer_done) override;
  SampledToken Sample(size_t item, const SampleInput& input) override;
  void Stop() override;

 private:
  GroupExecutor(const GroupOptions& options, std::unique_ptr<parallel::GroupHost> host,
                std::unique_ptr<RankModel> own, std::vector<RankShare> shares);
  void AddMetrics(MetricsRegistry* metrics);
  std::vector<PageLoad> PlanLoads(std::span<const StepItem> items);
  Status Drive(std::span<const StepItem> items, const LayerDone& layer_done);
  Status Reform(TimeNs deadline_ns);
  void DropLinks(const Status& reason);
  void Watch();

  const GroupOptions options_;
  ExecutorInfo info_;
  const std::unique_ptr<parallel::GroupHost> host_;
  const std::unique_ptr<RankModel> own_;
  const std::vector<RankShare> shares_;
  StopSignal stop_;
  GroupMembers members_;
  WholePages pages_;
  int32_t page_count_ = 0;
  Tick tick_;

  std::vector<uint8_t> given_;  // by page: the ranks hold all that it holds
  std::unique_ptr<StepDriver> driver_;
  std::vector<int64_t> output_of_item_;  // -1: none
  std::vector<float> logits_;            // [outputs, vocab]
  std::vector<float> sample_scratch_;

  Counter* formations_ = nullptr;
  Counter* pages_given_ = nullptr;
  Counter* rows_given_ = nullptr;
  Histogram* find_seconds_ = nullptr;
  Histogram* join_seconds_ = nullptr;

  std::atomic<bool> running_{false};  // a step

  Mutex mu_;
  std::unique_ptr<GroupLinks> links_ GUARDED_BY(mu_);
  Thread watch_;  // last: it uses all of the above
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_GROUP_EXECUTOR_H_
