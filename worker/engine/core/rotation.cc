// Microbatches: the running set in parts that take turns, one a step. With slots to copy pages to,
// they may exceed the pool together: while one computes, the next one's pages come in, and those of
// the one that has just had its turn go out (DejaVu, arXiv 2403.01876, section 4.2.2).
#include <algorithm>
#include <set>
#include <utility>

#include "worker/engine/core/core.h"

namespace reprise::worker {

// The group after the one that ran last comes first, so that everybody moves on.
std::vector<uint64_t> WorkerCore::TurnOrder() const {
  std::set<uint64_t> groups;
  for (const auto& [rank, request] : running_) groups.insert(GroupOf(*request));
  std::vector<uint64_t> turn(groups.upper_bound(last_group_), groups.end());
  turn.insert(turn.end(), groups.begin(), groups.upper_bound(last_group_));
  return turn;
}

bool WorkerCore::AnyParked() const {
  if (!Rotates()) return false;
  return std::any_of(running_.begin(), running_.end(),
                     [](const auto& entry) { return entry.second->phase == Phase::kParked; });
}

// Copies are under way that a member of the group waits for. Nobody waits for one that has had to
// go since the last step: it may have to go again.
bool WorkerCore::ComingIn(uint64_t group) const {
  if (!Rotates()) return false;
  for (const auto& [id, fetch] : fetches_) {
    if (!fetch.swap || fetch.owner == nullptr || GroupOf(*fetch.owner) != group) continue;
    if (fetch.owner->preempted_at != stats_.steps) return true;
  }
  if (swaps_.empty()) return false;
  return std::any_of(running_.begin(), running_.end(), [&](const auto& entry) {
    const Request& request = *entry.second;
    return request.phase == Phase::kParked && GroupOf(request) == group && !Frozen(request);
  });
}

// Those who have their turn next come in first, at the cost of those who have it last.
void WorkerCore::BringIn(TimeNs now) {
  if (!AnyParked()) return;
  const std::vector<uint64_t> order = TurnOrder();
  for (size_t turn = 0; turn < order.size(); ++turn) {
    std::vector<Request*> parked;
    for (const auto& [rank, request] : running_) {
      const bool here = request->phase == Phase::kParked && GroupOf(*request) == order[turn];
      if (here && !Frozen(*request)) parked.push_back(request);
    }
    for (Request* request : parked) {
      if (!ReadyToAdmit(*request, now)) continue;
      if (!MakeRoom(*request, order, turn, now)) return;
      if (!TryAdmit(*request, PagesWanted(), now)) return;  // until pages are quiet
    }
  }
}

// Orders so many to leave that there will be room; false when nobody can.
bool WorkerCore::MakeRoom(const Request& request, const std::vector<uint64_t>& order, size_t turn,
                          TimeNs now) {
  const PagePool::Counts& counts = pool_.counts();
  for (;;) {
    const Room room = RoomFor(request);
    const int64_t coming = counts.free + counts.cached - room.idle_hits + counts.quarantined;
    if (coming >= room.needed + PagesWanted()) return true;
    if (!ParkFurthest(order, turn, now)) return false;
  }
}

// The youngest of the group whose turn is furthest behind that of order[turn].
bool WorkerCore::ParkFurthest(const std::vector<uint64_t>& order, size_t turn, TimeNs now) {
  for (size_t at = order.size(); at-- > turn + 1;) {
    for (auto entry = running_.rbegin(); entry != running_.rend(); ++entry) {
      Request& request = *entry->second;
      const bool can = request.phase == Phase::kComputing && !request.in_step && !request.is_leg;
      if (!can || GroupOf(request) != order[at] || !CopyOut(request, now)) continue;
      Vacate(request);
      request.phase = Phase::kParked;
      ++stats_.turns_given;
      return true;
    }
  }
  return false;
}

// Sequences grew: the next ones keep their pages, where turns may be taken at all.
bool WorkerCore::ParkForGrowth(TimeNs now) {
  if (!Rotates() || RotationOf(nullptr) != SwapVerdict::kYes) return false;
  return ParkFurthest(TurnOrder(), 0, now);
}

int64_t WorkerCore::LongestPages(const Request& request) const {
  if (request.is_leg) return Covering(request.prompt_len());
  const int64_t rows = request.prompt_len() + request.sampling.max_tokens - 1;
  const int64_t shared = request.branches.size() > 1 ? Whole(request.prompt_len()) : 0;
  return shared + request.live_branches() * (Covering(rows) - shared);
}

// The smallest takes it, the first of equal ones.
void WorkerCore::JoinMicrobatch(Request& request) {
  if (request.microbatch) return;
  std::vector<int64_t> pages(static_cast<size_t>(settings_.microbatches));
  for (const auto& [rank, other] : running_) {
    if (other->microbatch && !other->alone) {
      pages[static_cast<size_t>(*other->microbatch)] += LongestPages(*other);
    }
  }
  request.microbatch =
      static_cast<int32_t>(std::min_element(pages.begin(), pages.end()) - pages.begin());
}

// Whether all that run, and `with`, may take turns: each counts as at its longest.
SwapVerdict WorkerCore::RotationOf(const Request* with) const {
  std::map<uint64_t, Microbatch> groups;
  const auto add = [&](const Request& request) {
    Microbatch& group = groups[GroupOf(request)];
    group.pages += LongestPages(request);
    group.sequences += request.live_branches();
  };
  for (const auto& [rank, request] : running_) add(*request);
  if (with != nullptr) add(*with);
  RotationInput input;
  for (const auto& [id, group] : groups) input.turns.push_back(group);
  input.pool_pages = settings_.pages;
  input.slots_total = slots_.total();
  input.page_bytes = static_cast<double>(settings_.row_bytes * block_);
  input.swap_bytes_per_s = swap_rate_.per_s();
  input.step_s = decode_steps_.per_s() > 0 ? 1 / decode_steps_.per_s() : 0;
  return PlanRotation(input);
}

// Runs it though the pool has no room: it gets its pages when its turn comes.
bool WorkerCore::AdmitBeyondPool(Request& request, TimeNs now) {
  if (!Rotates() || request.is_leg) return false;
  const std::optional<int32_t> before = request.microbatch;
  JoinMicrobatch(request);
  const SwapVerdict verdict = RotationOf(&request);
  CountSwapRefusal(request, verdict);
  if (verdict != SwapVerdict::kYes) {
    request.microbatch = before;
    return false;
  }
  ++stats_.rotations;
  waiting_.erase(request.rank);
  running_.emplace(request.rank, &request);
  request.phase = Phase::kParked;
  BringIn(now);
  return true;
}

}  // namespace reprise::worker
