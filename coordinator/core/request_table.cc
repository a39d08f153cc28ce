#include "coordinator/core/request_table.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"

namespace reprise::coordinator {
namespace {

std::string Text(const Attempt& attempt) {
  return absl::StrCat("(", attempt.owner_epoch, ", ", attempt.n, ")");
}

}  // namespace

std::optional<Attempt> RequestTable::Highest(const std::string& request_id) const {
  const auto it = entries_.find(request_id);
  if (it == entries_.end()) return std::nullopt;
  return it->second.highest;
}

std::optional<Refusal> RequestTable::CheckStale(const Entry& entry,
                                                const std::optional<Attempt>& previous,
                                                TimeNs now) const {
  int64_t retry_ms = 0;
  if (entry.granted_ns && previous == entry.granted_from && !entry.taken_up) {
    const TimeNs lost_ns = *entry.granted_ns + options_.lost_grant_ns;
    if (now >= lost_ns) return std::nullopt;
    retry_ms = (lost_ns - now) / kMillisecond + 1;
  }
  return Refusal{RefusalCode::kStaleAttempt,
                 absl::StrCat("the request is at attempt ", Text(entry.highest),
                              ", the caller held ", previous ? Text(*previous) : "none"),
                 retry_ms};
}

std::optional<Refusal> RequestTable::Check(const std::string& request_id,
                                           const std::optional<Attempt>& previous,
                                           TimeNs now) const {
  const auto it = entries_.find(request_id);
  const uint32_t last_n =
      std::max(previous ? previous->n : 0, it == entries_.end() ? 0 : it->second.highest.n);
  if (last_n == std::numeric_limits<uint32_t>::max()) {
    return Refusal{RefusalCode::kMalformed, "the request has used up its attempts"};
  }
  if (it != entries_.end()) {
    const Attempt& highest = it->second.highest;
    if (previous == highest) return std::nullopt;
    if (!previous || *previous < highest) return CheckStale(it->second, previous, now);
  }
  if (!previous) return std::nullopt;
  // The caller held an attempt that this table forgot or never saw.
  const TimeNs overdue_ns = started_ns_ + options_.recovery_ns;
  if (now >= overdue_ns) return std::nullopt;
  const int64_t wait_ms = (overdue_ns - now) / kMillisecond + 1;
  return Refusal{RefusalCode::kRecovering,
                 absl::StrCat("attempt ", Text(*previous), " is not known to this coordinator yet"),
                 wait_ms};
}

RequestTable::Entry& RequestTable::Touch(const std::string& request_id) {
  const auto [it, fresh] = entries_.try_emplace(request_id);
  if (!fresh) {
    recency_.splice(recency_.begin(), recency_, it->second.recency);
    return it->second;
  }
  recency_.push_front(request_id);
  it->second.recency = recency_.begin();
  if (entries_.size() > options_.requests_max) {
    entries_.erase(recency_.back());
    recency_.pop_back();
  }
  return entries_.find(request_id)->second;
}

Attempt RequestTable::Grant(const std::string& request_id, const std::optional<Attempt>& previous,
                            TimeNs now) {
  Entry& entry = Touch(request_id);
  Attempt base = entry.highest;  // zero when it is new here
  if (previous) base = std::max(base, *previous);
  const bool fresh = base == Attempt{};
  entry.highest = fresh ? Attempt{++epoch_, 1} : Attempt{base.owner_epoch, base.n + 1};
  entry.granted_from = previous;
  entry.granted_ns = now;
  entry.taken_up = false;
  return entry.highest;
}

void RequestTable::OnReported(const std::string& request_id, const Attempt& attempt) {
  Entry& entry = Touch(request_id);
  if (attempt < entry.highest) return;
  entry.highest = attempt;
  entry.taken_up = true;
}

}  // namespace reprise::coordinator
