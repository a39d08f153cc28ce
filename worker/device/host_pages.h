// The pages of a device's pool as the host has them, number for number: the truth for all others.
// What somebody else wrote there is given to the device before a step reads it, what a step wrote
// is taken from it layer by layer. Owned by whoever steps the model, which outlives it; one thread.
#ifndef REPRISE_WORKER_DEVICE_HOST_PAGES_H_
#define REPRISE_WORKER_DEVICE_HOST_PAGES_H_

#include <cstdint>
#include <span>
#include <vector>

#include "common/status.h"
#include "kvstore/block/kv_format.h"
#include "worker/device/device_model.h"
#include "worker/engine/executor.h"
#include "worker/model/context_parallel.h"

namespace reprise::worker {

class HostPages {
 public:
  // `format` is that of the pages, of a share its part's (kv::FormatOfPart).
  HostPages(DeviceModel* model, kv::KvFormat format) : model_(model), format_(std::move(format)) {}

  // `pages` pages of format.block_bytes() from `base` on, which outlive this; makes the device's.
  Status Attach(uint8_t* base, int32_t pages);
  int32_t pages() const { return pages_; }

  // Steps that follow are of a context rank, which outlives them; null: of all rows.
  void SetContext(const ContextParallel* context) { context_ = context; }

  // Somebody else has written the page.
  void OnReplaced(int32_t page) { replaced_[static_cast<size_t>(page)] = 1; }
  // Before a step of these items.
  Status GiveReplaced(std::span<const StepItem> items);
  // Waits for what the step put into its layer `layer`, and keeps it.
  Status TakeLayer(uint32_t layer);

 private:
  // Rows of the pages that hold positions [0, end).
  int64_t RowsOf(int64_t end) const {
    return context_ == nullptr ? end : context_->stripes().RowsKept(context_->rank(), end);
  }
  void KeepRows(uint32_t layer, const uint8_t* first, const uint8_t* second);

  DeviceModel* const model_;
  const kv::KvFormat format_;
  const ContextParallel* context_ = nullptr;
  uint8_t* base_ = nullptr;
  int32_t pages_ = 0;
  std::vector<uint8_t> replaced_;  // by page
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_HOST_PAGES_H_
