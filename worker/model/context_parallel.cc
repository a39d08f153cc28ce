#include "worker/model/context_parallel.h"

#include <algorithm>
#include <utility>

namespace reprise::worker {
namespace {

bool Is(const SharedRun& run, Form form) {
  return form == Form::kBoth || run.prompt == (form == Form::kPrompt);
}

}  // namespace

void ContextParallel::SetQueries(std::vector<SharedRun> runs) {
  runs_ = std::move(runs);
  for (auto& plan : plans_) plan.reset();
}

bool ContextParallel::Has(Form form) const {
  return std::any_of(runs_.begin(), runs_.end(),
                     [&](const SharedRun& run) { return Is(run, form); });
}

const parallel::ContextPlan& ContextParallel::PlanFor(Form form, const parallel::ContextCall& call,
                                                      double key_macs) {
  std::optional<parallel::ContextPlan>& plan = plans_[static_cast<size_t>(form)];
  if (plan.has_value()) return *plan;
  std::vector<parallel::ContextItem> items;
  for (const SharedRun& run : runs_) {
    if (Is(run, form)) items.push_back({run.first_position, run.rows, run.pages, run.row});
  }
  const int64_t partial_floats = call.heads * (call.value_dim + 1);
  const parallel::CostShape shape{
      .wire = {.block_tokens = call.block_tokens,
               .page_bytes = call.page_bytes,
               .query_bytes = call.q.row_bytes,
               .partial_floats = partial_floats},
      .pair_macs = static_cast<double>(call.heads * (call.query_dim + call.value_dim)),
      .key_macs = key_macs};
  plan = PlanOf(stripes(), rank_, items, shape, rules_);
  return *plan;
}

void ContextParallel::Attend(Form form, parallel::ContextCall call, double key_macs) {
  if (!status_.ok() || !Has(form)) return;
  call.plan = &PlanFor(form, call, key_macs);
  status_ = attention_.Attend(call, deadline_ns_);
}

}  // namespace reprise::worker
