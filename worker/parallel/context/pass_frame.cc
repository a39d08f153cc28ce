#include "worker/parallel/context/pass_frame.h"

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
    ByteRows q = frame.call.q;
    q.data = q.row(items[static_cast<size_t>(run.item)].row + run.row);
    q.rows = run.rows;
    work.push_back({run, q, StripePartials(run.last)});
  }
  return work;
}

Status Finish(const PassFrame& frame, const std::vector<ContextItem>& items,
              std::vector<RunWork>& work) {
  for (RunWork& w : work) {
    ByteRows out = frame.call.out;
    out.data = out.row(items[static_cast<size_t>(w.run.item)].row + w.run.row);
    out.rows = w.run.rows;
    const Partial root = w.partials.RemoveRoot();
    RETURN_IF_ERROR(frame.compute.Finish(root, out));
    frame.partials.Give(root);
  }
  return absl::OkStatus();
}

LayerPages PackedPages(const PassFrame& frame, const ContextBuffer& pages) {
  return {pages.data(), frame.page_bytes()};
}

void NodeBatch::Add(RunWork& work, const StripeNode& node, const int32_t* pages,
                    PositionRange keys) {
  entries_.push_back({&work, node, pages, keys});
}

Status NodeBatch::Attend() {
  std::vector<NodeItem> items;
  for (const Entry& entry : entries_) {
    const QueryRun& run = entry.work->run;
    ASSIGN_OR_RETURN(const Partial to, frame_.partials.Take(run.rows));
    items.push_back(
        {entry.work->q, run.first_position, entry.pages, entry.keys.size(), entry.keys.begin, to});
  }
  if (!items.empty()) RETURN_IF_ERROR(frame_.compute.Attend(keys_, items));
  for (size_t i = 0; i < entries_.size(); ++i) {
    RETURN_IF_ERROR(entries_[i].work->partials.Add(frame_.partials, entries_[i].node, items[i].to));
  }
  entries_.clear();
  return absl::OkStatus();
}

}  // namespace reprise::parallel
