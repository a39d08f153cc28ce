#include "worker/parallel/context/context_attention.h"

#include <algorithm>
#include <string>
#include <utility>

#include "worker/parallel/context/pass_frame.h"

namespace reprise::parallel {
namespace {

// Cuts items into turns of at most `rows_max` queries.
class TurnMaker {
 public:
  TurnMaker(const Stripes& stripes, int rank, int64_t rows_max)
      : stripes_(stripes), rank_(rank), rows_max_(rows_max) {}

  void Add(const ContextItem& item) {
    for (int64_t from = 0; from < item.rows;) {
      if (turns_.empty() || rows_ == rows_max_) {
        turns_.emplace_back();
        rows_ = 0;
      }
      const int64_t rows = std::min(item.rows - from, rows_max_ - rows_);
      turns_.back().items.push_back(PartOf(item, from, rows));
      rows_ += rows;
      from += rows;
    }
  }
  std::vector<ContextPlan::Turn> Take() { return std::move(turns_); }

 private:
  ContextItem PartOf(const ContextItem& item, int64_t from, int64_t rows) const {
    ContextItem part = item;
    part.first_position += from;
    part.rows = rows;
    part.row += stripes_.RowsKept(rank_, part.first_position) -
                stripes_.RowsKept(rank_, item.first_position);
    return part;
  }

  const Stripes& stripes_;
  const int rank_;
  const int64_t rows_max_;
  std::vector<ContextPlan::Turn> turns_;
  int64_t rows_ = 0;  // of the last turn
};

Status Refuse(Communicator& communicator, const std::string& message) {
  communicator.Abort(absl::InvalidArgumentError(message));
  return communicator.Barrier(INT64_MAX);  // fails once all memory is quiet
}

Status Passes(const PassFrame& frame, const ContextPlan& plan) {
  if (!plan.ring.empty()) RETURN_IF_ERROR(RingPass(frame, plan.ring));
  if (!plan.gather.empty()) RETURN_IF_ERROR(GatherPass(frame, plan.gather));
  for (const ContextPlan::Turn& turn : plan.turns) RETURN_IF_ERROR(QueryPass(frame, turn));
  return absl::OkStatus();
}

}  // namespace

ContextPlan PlanOf(const Stripes& stripes, int rank, const std::vector<ContextItem>& items,
                   const CostShape& shape, const ContextRules& rules) {
  ContextPlan plan;
  TurnMaker turns(stripes, rank, rules.machine.query_rows_max);
  for (const ContextItem& item : items) {
    if (item.rows == 0) continue;
    const Way way =
        rules.way.has_value() ? *rules.way : ChooseWay(stripes, item, shape, rules.machine);
    if (way == Way::kRing) plan.ring.push_back(item);
    if (way == Way::kGather) plan.gather.push_back(item);
    if (way == Way::kQuery) turns.Add(item);
  }
  plan.turns = turns.Take();
  for (ContextPlan::Turn& turn : plan.turns) {
    turn.merge = rules.merge.has_value() ? *rules.merge
                                         : ChooseMerge(stripes, turn.items, shape, rules.machine);
  }
  return plan;
}

Status ContextAttention::Attend(const ContextCall& call, TimeNs deadline_ns) {
  const TimeNs start = clock_.NowNs();
  if (communicator_.size() != stripes_.ranks()) {
    return Refuse(communicator_, absl::StrCat("stripes over ", stripes_.ranks(),
                                              " ranks in a group of ", communicator_.size()));
  }
  if (call.block_tokens < 1 || stripes_.tokens() % call.block_tokens != 0) {
    return Refuse(communicator_,
                  absl::StrCat("pages of ", call.block_tokens, " tokens do not divide a stripe of ",
                               stripes_.tokens()));
  }
  PartialPool partials(compute_, call.heads, call.value_dim);
  const PassFrame frame{communicator_, compute_, stripes_, call,       clock_,
                        partials,      memory_,  stats_,   deadline_ns};
  // The queries and this rank's newest keys are there, and nobody reads what is kept from the call
  // before.
  Status status = compute_.AwaitAll();
  if (status.ok()) status = Passes(frame, *call.plan);
  if (!status.ok()) communicator_.Abort(status);
  stats_.partial_bytes_peak = std::max(stats_.partial_bytes_peak, partials.peak_bytes());
  stats_.total_ns += clock_.NowNs() - start;
  return status;
}

}  // namespace reprise::parallel
