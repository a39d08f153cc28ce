#include "worker/device/host_pages.h"

#include <cstring>

#include "worker/device/device_status.h"

namespace reprise::worker {

Status HostPages::Attach(uint8_t* base, int32_t pages) {
  base_ = base;
  pages_ = pages;
  // Pages that are there already have been written by somebody else.
  replaced_.assign(static_cast<size_t>(pages), 1);
  return model_->MakePool(pages);
}

// Pages of the step that hold rows before it. What the step itself writes need not be copied.
Status HostPages::GiveReplaced(std::span<const StepItem> items) {
  const auto bytes = static_cast<size_t>(model_->page_bytes());
  for (const StepItem& item : items) {
    const int64_t begin = RowsOf(item.first_position);
    const int64_t end = RowsOf(item.first_position + static_cast<int64_t>(item.tokens.size()));
    for (int64_t first = 0; first < end; first += cuda::kPageRows) {
      const auto page =
          static_cast<size_t>(item.pages[static_cast<size_t>(first / cuda::kPageRows)]);
      if (replaced_[page] == 0) continue;
      replaced_[page] = 0;
      if (first >= begin) continue;
      RETURN_IF_ERROR(DeviceStatus(cuda::CopyIn(model_->pool() + page * bytes, base_ + page * bytes,
                                                bytes, model_->stream()),
                                   "copying a page"));
    }
  }
  return absl::OkStatus();
}

void HostPages::KeepRows(uint32_t layer, const uint8_t* first, const uint8_t* second) {
  const size_t segment = format_.segment_bytes();
  const std::vector<cuda::KvSlot>& slots = model_->slots();
  size_t part = 0;  // where it begins in a segment
  for (const kv::RowField& field : format_.fields) {
    const uint8_t* from = &field == &format_.fields.front() ? first : second;
    const size_t head_bytes = field.elements * kv::ElementBytes(format_.codec);
    for (const cuda::KvSlot& slot : slots) {
      uint8_t* to = base_ + static_cast<size_t>(slot.page) * format_.block_bytes() +
                    layer * segment + part + static_cast<size_t>(slot.row) * head_bytes;
      for (uint32_t head = 0; head < field.heads; ++head) {
        std::memcpy(to + head * format_.block_tokens * head_bytes, from, head_bytes);
        from += head_bytes;
      }
    }
    part += field.heads * format_.block_tokens * head_bytes;
  }
  const SegmentPacker& whole = model_->segments();
  for (size_t i = 0; i < whole.pages().size(); ++i) {
    std::memcpy(
        base_ + static_cast<size_t>(whole.pages()[i]) * format_.block_bytes() + layer * segment,
        whole.segment(layer, i), segment);
  }
}

Status HostPages::TakeLayer(uint32_t layer) {
  const uint8_t* first = nullptr;
  const uint8_t* second = nullptr;
  RETURN_IF_ERROR(model_->AwaitRows(layer, &first, &second));
  KeepRows(layer, first, second);
  return absl::OkStatus();
}

}  // namespace reprise::worker
