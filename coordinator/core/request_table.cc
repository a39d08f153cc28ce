#include "coordinator/core/request_table.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"

namespace reprise::coordinator {
namespace {

std::string Text(const Attempt& attempt) {
  return absl::StrCat("(", attempt.owner_epoch, ", ", attempt.n, ")");
}

// Takes as long for the first byte that differs as for the last.
bool EqualDigests(const Digest256& a, const Digest256& b) {
  volatile uint8_t difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference = difference | (a[i] ^ b[i]);
  return difference == 0;
}

}  // namespace

const RequestTable::Entry* RequestTable::Find(const std::string& request_id) const {
  const auto it = entries_.find(request_id);
  return it == entries_.end() ? nullptr : &it->second;
}

std::optional<Attempt> RequestTable::Highest(const std::string& request_id) const {
  const Entry* entry = Find(request_id);
  if (entry == nullptr) return std::nullopt;
  return entry->highest;
}

std::optional<NodeKey> RequestTable::Runner(const std::string& request_id) const {
  const Entry* entry = Find(request_id);
  if (entry == nullptr) return std::nullopt;
  return entry->runner;
}

uint32_t RequestTable::Crashes(const Claim& claim) const {
  const Entry* entry = Find(claim.request_id);
  return std::max(claim.crashes, entry == nullptr ? 0 : entry->crashes);
}

void RequestTable::Restart(uint64_t base, TimeNs now) {
  epoch_ = std::max(epoch_, base);
  ++reign_;
  started_ns_ = now;
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

// Nothing once whoever could know the request has had time to report it.
std::optional<Refusal> RequestTable::CheckKnown(absl::string_view what, TimeNs now) const {
  const TimeNs overdue_ns = started_ns_ + options_.recovery_ns;
  if (now >= overdue_ns) return std::nullopt;
  return Refusal{RefusalCode::kRecovering,
                 absl::StrCat(what, " is not known to this coordinator yet"),
                 (overdue_ns - now) / kMillisecond + 1};
}

std::optional<Refusal> RequestTable::CheckEpochs(const Attempt& highest) {
  if (highest.owner_epoch < std::numeric_limits<uint64_t>::max()) return std::nullopt;
  return Refusal{RefusalCode::kMalformed, "the request has used up its owner epochs"};
}

std::optional<Refusal> RequestTable::CheckAttach(const Claim& claim, const Entry* entry,
                                                 TimeNs now) const {
  if (!claim.handle_digest) {
    return Refusal{RefusalCode::kMalformed, "an attach needs the resume handle's digest"};
  }
  const Attempt highest =
      std::max(entry == nullptr ? Attempt{} : entry->highest, claim.previous.value_or(Attempt{}));
  if (auto refusal = CheckEpochs(highest)) return refusal;
  if (entry == nullptr) return CheckKnown("the request", now);
  if (!entry->handle_digest) {
    if (auto refusal = CheckKnown("the request's resume handle", now)) return refusal;
    return Refusal{RefusalCode::kWrongHandle, "the request has no resume handle"};
  }
  if (!EqualDigests(*claim.handle_digest, *entry->handle_digest)) {
    return Refusal{RefusalCode::kWrongHandle, "the resume handle is not the request's"};
  }
  return std::nullopt;
}

std::optional<Refusal> RequestTable::CheckPrevious(const Claim& claim, const Entry* entry,
                                                   TimeNs now) const {
  const std::optional<Attempt>& previous = claim.previous;
  const uint32_t last_n =
      std::max(previous ? previous->n : 0, entry == nullptr ? 0 : entry->highest.n);
  if (last_n == std::numeric_limits<uint32_t>::max()) {
    return Refusal{RefusalCode::kMalformed, "the request has used up its attempts"};
  }
  if (previous) {
    if (auto refusal = CheckEpochs(*previous)) return refusal;
  }
  if (entry != nullptr) {
    if (previous == entry->highest) return std::nullopt;
    if (!previous || *previous < entry->highest) return CheckStale(*entry, previous, now);
  }
  if (!previous) return std::nullopt;
  // The caller held an attempt that this table forgot or never saw.
  return CheckKnown(absl::StrCat("attempt ", Text(*previous)), now);
}

std::optional<Refusal> RequestTable::Check(const Claim& claim, TimeNs now) const {
  const Entry* entry = Find(claim.request_id);
  auto refusal = claim.attach ? CheckAttach(claim, entry, now) : CheckPrevious(claim, entry, now);
  if (refusal) return refusal;
  if (const uint32_t crashes = Crashes(claim); crashes >= limits::kCrashesMax) {
    return Refusal{RefusalCode::kCrashLoop,
                   absl::StrCat("workers crashed with the request in their step ", crashes,
                                " times, the limit is ", limits::kCrashesMax)};
  }
  return std::nullopt;
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

// What every grant does to its entry.
Attempt RequestTable::Raise(Entry& entry, const Claim& claim, TimeNs now) {
  const Attempt base = std::max(entry.highest, claim.previous.value_or(Attempt{}));
  const bool counts_on = base == entry.highest && entry.reign == reign_ && !claim.attach;
  const uint64_t epoch = counts_on ? base.owner_epoch : std::max(++epoch_, base.owner_epoch + 1);
  entry.highest = {epoch, claim.attach ? 1 : base.n + 1};
  entry.reign = reign_;
  entry.granted_from = claim.previous;
  entry.granted_ns = now;
  // A lost attach is made again by the handle, never by a caller that held nothing.
  if (claim.attach) entry.granted_ns = std::nullopt;
  entry.taken_up = false;
  entry.crashes = std::max(entry.crashes, claim.crashes);
  if (!entry.handle_digest) entry.handle_digest = claim.handle_digest;
  return entry.highest;
}

Attempt RequestTable::Grant(const Claim& claim, const NodeKey& decode, TimeNs now) {
  Entry& entry = Touch(claim.request_id);
  entry.runner = decode;
  return Raise(entry, claim, now);
}

Attempt RequestTable::GrantAttach(const Claim& claim, TimeNs now) {
  return Raise(Touch(claim.request_id), claim, now);
}

void RequestTable::OnReported(const RequestReport& report, const NodeKey& from) {
  Entry& entry = Touch(report.request_id);
  entry.crashes = std::max(entry.crashes, report.crashes);
  if (!entry.handle_digest) entry.handle_digest = report.handle_digest;
  if (report.attempt < entry.highest) return;
  if (report.attempt > entry.highest) entry.reign = 0;
  entry.highest = report.attempt;
  entry.taken_up = true;
  if (report.decoding) entry.runner = from;
}

}  // namespace reprise::coordinator
