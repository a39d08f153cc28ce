// One step: which rows run, on which pages, and who gives way when there are too few.
#include <algorithm>
#include <utility>

#include "worker/engine/core/core.h"

namespace reprise::worker {

int64_t WorkerCore::TargetRows(const Request& request, size_t branch) const {
  if (!request.branches[branch].live) return 0;
  if (request.forked) return static_cast<int64_t>(request.branches[branch].tokens.size());
  return branch == request.lead ? request.trunk_len : 0;
}

bool WorkerCore::IsDecodeRow(const Request& request, size_t branch) const {
  const int64_t target = TargetRows(request, branch);
  return target > request.prompt_len() && target - request.branches[branch].computed == 1;
}

std::vector<WorkerCore::Row> WorkerCore::CollectRows() const {
  std::vector<Row> rows;
  for (const auto& [rank, request] : running_) {
    if (request->phase != Phase::kComputing || Frozen(*request)) continue;
    for (size_t b = 0; b < request->branches.size(); ++b) {
      if (IsDecodeRow(*request, b)) rows.push_back({request, b, TargetRows(*request, b)});
    }
  }
  CollectChunks(rows);
  return rows;
}

void WorkerCore::CollectChunks(std::vector<Row>& rows) const {
  const ChunkBudget whole(settings_.chunk_tokens, settings_.chunk_cost);
  ChunkBudget shared_budget = whole;
  for (const auto& [rank, request] : running_) {
    if (request->phase != Phase::kComputing || Frozen(*request)) continue;
    ChunkBudget own_budget = whole;
    ChunkBudget& budget = request->alone ? own_budget : shared_budget;
    for (size_t b = 0; b < request->branches.size() && !budget.spent(); ++b) {
      const Branch& branch = request->branches[b];
      const int64_t target = TargetRows(*request, b);
      if (target <= branch.computed || IsDecodeRow(*request, b)) continue;
      const int64_t rows_now =
          budget.Take(branch.computed, branch.GapEnd(target) - branch.computed);
      rows.push_back({request, b, branch.computed + rows_now});
    }
  }
}

int64_t WorkerCore::PagesWanted(const Row& row) const {
  const Branch& branch = row.request->branches[row.branch];
  int64_t wanted = 0;
  for (int64_t block = Whole(branch.computed); block < Covering(row.last); ++block) {
    const auto index = static_cast<size_t>(block);
    wanted += index >= branch.pages.size() || !Writable(branch.pages[index]);
  }
  return wanted;
}

int64_t WorkerCore::PagesWanted() const {
  int64_t wanted = 0;
  for (const Row& row : CollectRows()) wanted += PagesWanted(row);
  return wanted;
}

// The youngest request that computes gives its pages up and waits again, ahead of newer work; its
// rows are copied out where that pays.
// False when only the oldest is left: it waits for pages instead.
bool WorkerCore::Preempt(TimeNs now) {
  Request* youngest = nullptr;
  int candidates = 0;
  for (const auto& [rank, request] : running_) {
    if (request->phase != Phase::kComputing || request->is_leg) continue;
    youngest = request;
    ++candidates;
  }
  if (candidates < 2) return false;
  ++stats_.preemptions;
  youngest->preempted_at = stats_.steps;
  CopyOutIfWorth(*youngest, now);
  Vacate(*youngest);
  youngest->phase = Phase::kWaiting;
  running_.erase(youngest->rank);
  waiting_.emplace(youngest->rank, youngest);
  return true;
}

bool WorkerCore::TakePages(const Row& row, StepPlan& plan) {
  if (PagesWanted(row) > pool_.counts().free) return false;
  Branch& branch = row.request->branches[row.branch];
  for (int64_t block = Whole(branch.computed); block < Covering(row.last); ++block) {
    const auto index = static_cast<size_t>(block);
    if (index >= branch.pages.size()) {
      branch.pages.push_back(*pool_.Allocate());
    } else if (!Writable(branch.pages[index])) {
      const PageId copy = *pool_.Allocate();
      plan.copies.push_back({branch.pages[index], copy});
      ReleasePage(std::exchange(branch.pages[index], copy));
    }
  }
  return true;
}

void WorkerCore::PlanSamples(const Row& row, StepPlan& plan) {
  const Request& request = *row.request;
  if (row.last < TargetRows(request, row.branch)) return;
  std::vector<uint32_t>& samples = flight_.back().samples;
  if (request.forked) {
    samples.push_back(static_cast<uint32_t>(row.branch));
  } else if (request.is_leg) {
    for (int32_t b = 0; b < request.sampling.n; ++b) samples.push_back(static_cast<uint32_t>(b));
  } else {
    for (size_t b = 0; b < request.branches.size(); ++b) {
      const Branch& branch = request.branches[b];
      const bool here = static_cast<int64_t>(branch.tokens.size()) == request.trunk_len;
      if (branch.live && here) samples.push_back(static_cast<uint32_t>(b));
    }
  }
  for (const uint32_t b : samples) {
    SampleInput input;
    input.params = &request.sampling;
    input.branch = b;
    input.prompt = request.prompt;
    if (!request.is_leg) {
      input.generated =
          std::span<const int32_t>(request.branches[b].tokens).subspan(request.prompt.size());
    }
    input.index = static_cast<uint32_t>(input.generated.size());
    plan.samples.push_back({plan.items.size(), input});
  }
}

void WorkerCore::PlanRow(const Row& row, StepPlan& plan) {
  Request& request = *row.request;
  Branch& branch = request.branches[row.branch];
  EnsureChain(request, branch, row.last);
  flight_.push_back({&request, request.rank.arrival, row.branch, branch.computed, row.last, {}});
  PlanSamples(row, plan);
  const auto first = static_cast<size_t>(branch.computed);
  const auto count = static_cast<size_t>(row.last) - first;
  StepItem item;
  item.tokens = std::span<const int32_t>(branch.tokens).subspan(first, count);
  item.first_position = branch.computed;
  item.pages =
      std::span<const int32_t>(branch.pages).first(static_cast<size_t>(Covering(row.last)));
  item.wants_output = !flight_.back().samples.empty();
  item.prompt_end = request.prompt_len();
  plan.items.push_back(item);
  for (int64_t block = Whole(branch.computed); block < Covering(row.last); ++block) {
    const PageId page = branch.pages[static_cast<size_t>(block)];
    const bool full = (block + 1) * block_ <= row.last;
    const bool tail = request.is_leg && row.last == request.prompt_len();
    if (cache_.pending(page) && (full || tail)) plan.completes.push_back({cache_.id(page), page});
  }
  (IsDecodeRow(request, row.branch) ? plan.decode_rows : plan.prompt_tokens) +=
      static_cast<int64_t>(count);
  request.in_step = true;
}

std::optional<StepPlan> WorkerCore::PlanStep(TimeNs now) {
  now_ = now;
  if (!flight_.empty()) return std::nullopt;
  const uint64_t evictions_before = stats_.evictions;
  const PagePool::Counts& counts = pool_.counts();
  int64_t wanted = PagesWanted();
  while (counts.free + counts.cached + counts.quarantined < wanted &&
         (ParkForGrowth(now) || Preempt(now))) {
    wanted = PagesWanted();
  }
  Evict(wanted - counts.free);
  if (stats_.evictions == evictions_before) BringIn(now);
  if (stats_.evictions == evictions_before) AdmitWaiting(wanted, now);
  // Evicted pages are usable once quiet, mostly at once: the caller asks again.
  if (stats_.evictions != evictions_before) return std::nullopt;

  StepPlan plan;
  const std::vector<Row> rows = CollectRows();
  for (const uint64_t group : TurnOrder()) {
    // Those who come in have their turn now; the copies end by themselves.
    if (ComingIn(group)) return std::nullopt;
    for (const Row& row : rows) {
      if (GroupOf(*row.request) != group) continue;
      // A row without a page stays out of this step; the pages it waits for are in quarantine.
      if (TakePages(row, plan)) PlanRow(row, plan);
    }
    last_group_ = group;
    if (!flight_.empty()) break;
  }
  if (flight_.empty()) return std::nullopt;
  step_began_ns_ = now;
  step_prompt_tokens_ = plan.prompt_tokens;
  ++stats_.steps;
  return plan;
}

}  // namespace reprise::worker
