#include "worker/parallel/context/pass_frame.h"

#include <cstring>
#include <utility>

namespace reprise::parallel {

Status PassFrame::Wait(ExchangeId exchange) const {
  const TimeNs start = clock.NowNs();
  Status status = communicator.Wait(exchange, deadline_ns);
  stats.wait_ns += clock.NowNs() - start;
  return status;
}

std::vector<RunWork> OwnWork(const PassFrame& frame, const std::vector<ContextItem>& items) {
  std::vector<RunWork> work;
  for (const QueryRun& run : RunsOf(frame.stripes, items, frame.rank())) {
    const kernels::ConstF32& q = frame.call.q;
    const int64_t row = items[static_cast<size_t>(run.item)].row + run.row;
    work.push_back({run, {q.row(row), run.rows, q.cols, q.row_stride}, {run.rows, run.last}});
  }
  return work;
}

void Finish(const PassFrame& frame, const std::vector<ContextItem>& items,
            std::vector<RunWork>& work) {
  const kernels::F32& out = frame.call.out;
  for (RunWork& w : work) {
    const int64_t row = items[static_cast<size_t>(w.run.item)].row + w.run.row;
    PartialMemory root = w.partials.RemoveRoot();
    const kernels::F32 from = frame.partials.View(root, w.run.rows).out;
    for (int64_t r = 0; r < w.run.rows; ++r) {
      std::memcpy(out.row(row + r), from.row(r), static_cast<size_t>(out.cols) * sizeof(float));
    }
    frame.partials.Give(std::move(root));
  }
}

void PackPages(const PassFrame& frame, const int32_t* pages, int64_t count, uint8_t* to) {
  const kernels::PagedKv& kv = frame.call.kv;
  const int64_t bytes = frame.page_bytes();
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(to + i * bytes, kv.base + pages[i] * kv.page_stride_bytes + kv.layer * bytes,
                static_cast<size_t>(bytes));
  }
}

kernels::PagedKv PackedKv(const PassFrame& frame, std::vector<uint8_t>& pages) {
  kernels::PagedKv kv = frame.call.kv;
  kv.base = reinterpret_cast<std::byte*>(pages.data());
  kv.page_stride_bytes = frame.page_bytes();
  kv.layer = 0;
  return kv;
}

void NodeBatch::Add(RunWork& work, const StripeNode& node, const int32_t* pages,
                    PositionRange keys) {
  entries_.push_back(
      {&work, node, {pages, keys.size(), keys.begin, kernels::MaskKind::kCausal}, {}});
}

void NodeBatch::Attend() {
  std::vector<kernels::AttentionItem> items;
  for (Entry& entry : entries_) {
    const QueryRun& run = entry.work->run;
    entry.partial = frame_.partials.Take(run.rows);
    const kernels::Partials to = frame_.partials.View(entry.partial, run.rows);
    items.push_back({entry.work->q, run.first_position, &entry.segment, 1, to.out, to.lse});
  }
  if (!items.empty()) frame_.call.attender->Attend(kv_, items);
  for (Entry& entry : entries_) {
    entry.work->partials.Add(frame_.partials, entry.node, std::move(entry.partial));
  }
  entries_.clear();
}

}  // namespace reprise::parallel
