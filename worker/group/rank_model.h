// One rank's share of a model and its pages: what computes in the driver of a group and in every
// other rank, on the CPU or on a device (share_compute.h). The share is the place's among stages
// and tensor ranks; which positions it computes, and with whom, comes with each epoch of the group.
// Owned by whoever runs the rank; one thread.
//
// Invariants:
// 1. The pool has the whole group's page numbers; page p holds this rank's part of it. Memory is
//    used by pages that were written.
// 2. Between SetLinks and a failure all ranks of the group make the same calls.
// 3. After a failure nothing computed since is of use until the next SetLinks; the pages are.
#ifndef REPRISE_WORKER_GROUP_RANK_MODEL_H_
#define REPRISE_WORKER_GROUP_RANK_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/mapped_memory.h"
#include "common/status.h"
#include "kernels/ops.h"
#include "worker/group/group_links.h"
#include "worker/group/part_rows.h"
#include "worker/group/share_compute.h"
#include "worker/model/model_fingerprint.h"
#include "worker/model/model_setup.h"
#include "worker/model/model_share.h"

namespace reprise::worker {

// Where a rank computes; threads and isa are the CPU's.
struct ComputeOn {
  std::string device = "cpu";  // or gpu, or emulated: the CPU computes what a card would
  bool unproven_kernels = false;
  int64_t pool_bytes = 0;  // of the group's whole pages; 0: not known yet
};

// The split of a group of this shape (parallel::ParseGroupShape) whose ranks compute there: on
// devices stripes are longer.
StatusOr<kv::GroupSplit> SplitOn(const ComputeOn& on, absl::string_view shape);

class RankModel {
 public:
  // Loads the share of rank `rank` of the split, and reads no more of the folder than that; rank 0,
  // the driver, sums the rest as well. INVALID_ARGUMENT names what the split would tear.
  static StatusOr<std::unique_ptr<RankModel>> Load(const ModelExecutorOptions& options,
                                                   const ComputeOn& on, const kv::GroupSplit& split,
                                                   uint32_t rank);

  // Of the driver, for a group whose pools have so many pages.
  GroupTerms TermsOf(int32_t pages) const;
  // INVALID_ARGUMENT names what is different here, by what this rank has read of the model.
  Status CheckTerms(const GroupTerms& terms) const;

  // Of the whole model, as one process would serve it; the format's fingerprint is the driver's to
  // know.
  const ModelSetup& setup() const { return setup_; }
  const ModelConfig& config() const { return config_; }  // of the whole model
  const ModelShare& share() const { return share_; }
  const PartRows& rows() const { return rows_; }
  // For sampling, on the host.
  const kernels::CpuOps& ops() const { return kernels::Select(setup_.isa); }
  bool sends_rows() const { return sends_rows_; }

  Status AttachPool(int32_t pages);
  int32_t pages() const { return pages_; }
  std::span<uint8_t> Page(int32_t page) {
    return {pool_.data() + static_cast<size_t>(page) * rows_.page_bytes(), rows_.page_bytes()};
  }

  // After the driver's bytes are in Page(page).
  void OnPageGiven(int32_t page) { compute_->OnPageGiven(page); }

  void SetTick(std::function<void()> tick) { compute_->SetTick(std::move(tick)); }
  LinkMaker link_maker() { return compute_->link_maker(); }
  // `links` outlives their use.
  Status SetLinks(const GroupLinks& links);

  // `layer_done` gets layers of the model. Items name the group's pages.
  Status Forward(std::span<const StepItem> items, const Executor::LayerDone& layer_done,
                 TimeNs deadline_ns);
  Status Settle(TimeNs deadline_ns) { return compute_->Settle(deadline_ns); }
  // Of the last Forward, by output that this rank has: the share's part of the vocabulary.
  std::span<const float> logits(int64_t output) const { return compute_->logits(output); }

 private:
  RankModel(ModelSetup setup, ModelFingerprint fingerprint, const ModelConfig& config,
            const ModelShare& share, const kv::GroupSplit& split, uint32_t rank,
            std::unique_ptr<ShareCompute> compute);
  static StatusOr<std::unique_ptr<RankModel>> LoadOnHost(const ModelExecutorOptions& options,
                                                         const kv::GroupSplit& split,
                                                         uint32_t rank);
  static StatusOr<std::unique_ptr<RankModel>> LoadOnCard(const ModelExecutorOptions& options,
                                                         const ComputeOn& on,
                                                         const kv::GroupSplit& split,
                                                         uint32_t rank);

  const ModelSetup setup_;
  const ModelFingerprint fingerprint_;
  const ModelConfig config_;
  const ModelShare share_;
  const kv::GroupSplit split_;
  const PartRows rows_;
  const bool sends_rows_;
  MappedMemory pool_;
  std::unique_ptr<ShareCompute> compute_;
  int32_t pages_ = 0;
  uint32_t context_ = 0;
  std::vector<std::vector<int32_t>> own_pages_;
  std::vector<StepItem> own_items_;
};

// Of ranks that hold the same heads, the first answers for them.
bool SendsRows(const kv::KvFormat& format, const kv::GroupSplit& split, uint32_t rank);

// Which of the items' outputs, counted from 0, a context rank has: those whose position it owns.
std::vector<size_t> OutputsOf(std::span<const StepItem> items, const kv::GroupSplit& split,
                              uint32_t context);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_RANK_MODEL_H_
