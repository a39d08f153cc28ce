#include <array>
#include <utility>

#include "tests/simulation/cluster.h"

namespace reprise::sim {
namespace {

// One name for each figure, for adding and for printing.
template <typename Totals, typename Visit>
void VisitAll(Totals& t, Visit visit) {
  visit("runs", t.runs);
  visit("events", t.events);
  visit("accepted", t.journal.accepted);
  visit("refused", t.journal.refused);
  visit("completed", t.journal.completed);
  visit("cancelled", t.journal.cancelled);
  visit("past_deadline", t.journal.past_deadline);
  visit("gave_up", t.journal.gave_up);
  visit("lost", t.journal.lost);
  visit("attempts", t.journal.attempts);
  visit("tokens", t.journal.tokens);
  visit("replaced", t.journal.replaced);
  visit("cached_tokens", t.journal.cached_tokens);
  visit("stale_events", t.sessions.stale_events);
  visit("duplicate_tokens", t.sessions.duplicates);
  visit("gaps", t.sessions.gaps);
  visit("place_refusals", t.sessions.refusals);
  visit("links_failed", t.links_failed);
  visit("resumes", t.resumes);
  visit("attaches", t.attaches);
  visit("handles_lost", t.handles_lost);
  visit("clients_left", t.clients_left);
  visit("stale_leader_refused", t.stale_leader_refused);
  visit("elections", t.elections);
  visit("appended_rows", t.appended_rows);
  visit("replicas_lost", t.replicas_lost);
  visit("rebuilds", t.rebuilds);
  visit("fenced", t.fenced);
  visit("restored_rows", t.restored_rows);
  visit("replayed_rows", t.replayed_rows);
  visit("orphaned", t.orphaned);
  visit("windows_over", t.windows_over);
  visit("watermarks_checked", t.watermarks_checked);
  visit("blocks_sealed", t.blocks_sealed);
  visit("tails_copied", t.tails_copied);
  visit("damaged_appends", t.damaged_appends);
  visit("append_gaps", t.append_gaps);
  visit("stale_appends", t.stale_appends);
  visit("appends_without_room", t.appends_without_room);
  visit("orphans_released", t.orphans_released);
  visit("streams_broken", t.streams_broken);
  visit("checksum_failures", t.checksum_failures);
  visit("fetches_cancelled", t.fetches_cancelled);
  visit("fetch_hits", t.fetch_hits);
  visit("prefix_tokens", t.prefix_tokens);
  visit("legs_served", t.legs_served);
  visit("legs_failed", t.legs_failed);
  visit("preemptions", t.preemptions);
  visit("evictions", t.evictions);
  visit("store_hits", t.store_hits);
  visit("store_evictions", t.store_evictions);
  visit("disk_loads", t.disk_loads);
  visit("disk_failures", t.disk_failures);
}

}  // namespace

void RunTotals::Add(const RunTotals& other) {
  faults.Add(other.faults);
  std::vector<uint64_t> theirs;
  VisitAll(other,
           [&](const char*, const auto& value) { theirs.push_back(static_cast<uint64_t>(value)); });
  size_t at = 0;
  VisitAll(*this, [&](const char*, auto& value) {
    value += static_cast<std::remove_reference_t<decltype(value)>>(theirs[at++]);
  });
}

std::string RunTotals::Text() const {
  std::string text;
  VisitAll(*this, [&](const char* name, const auto& value) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", name, " ", value);
  });
  absl::StrAppend(&text, "\nfaults: ", faults.Text());
  return text;
}

}  // namespace reprise::sim
