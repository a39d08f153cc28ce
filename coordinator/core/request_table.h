// The highest attempt known of each request, and the compare-and-set that grants the next one.
// Owned by the coordinator core; one thread at a time.
//
// Invariants:
// 1. Of all callers that hold the same previous attempt, one is granted the next.
// 2. A granted attempt is higher than every attempt known of the request.
// 3. A grant nobody took up (no node reports it within `lost_grant_ns`: the answer was lost) does
//    not lock its request: the holder of the attempt before it may have one above it.
// 4. Fail closed: what this table has not seen, it grants an attempt for only when whoever could
//    have seen it had time to say so.
// The least recently granted or reported requests are forgotten beyond the limit.
#ifndef REPRISE_COORDINATOR_CORE_REQUEST_TABLE_H_
#define REPRISE_COORDINATOR_CORE_REQUEST_TABLE_H_

#include <cstdint>
#include <list>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "common/clock.h"
#include "common/ids.h"
#include "common/limits.h"
#include "coordinator/core/refusal.h"

namespace reprise::coordinator {

struct RequestTableOptions {
  size_t requests_max = limits::kRequestsTracked;
  // How long after its start a coordinator waits for reports of requests older than itself.
  TimeNs recovery_ns = 2 * kSecond;
  TimeNs lost_grant_ns = kSecond;
  // Epochs granted are above this. Rising from one coordinator to the next (wall-clock
  // microseconds at its start), it keeps a forgotten request's old attempts below its new ones.
  uint64_t epoch_base = 0;
};

class RequestTable {
 public:
  RequestTable(const RequestTableOptions& options, TimeNs now)
      : options_(options), started_ns_(now), epoch_(options.epoch_base) {}

  // Why the attempt after `previous` cannot be granted; nothing when it can.
  std::optional<Refusal> Check(const std::string& request_id,
                               const std::optional<Attempt>& previous, TimeNs now) const;
  // Grants it. Only after Check found nothing, in the same event.
  Attempt Grant(const std::string& request_id, const std::optional<Attempt>& previous, TimeNs now);
  // A node serves the request under `attempt`.
  void OnReported(const std::string& request_id, const Attempt& attempt);

  std::optional<Attempt> Highest(const std::string& request_id) const;
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    Attempt highest;
    std::optional<Attempt> granted_from;  // what the caller held when `highest` was granted
    std::optional<TimeNs> granted_ns;     // absent: known from reports only
    bool taken_up = false;                // a node reported `highest`
    std::list<std::string>::iterator recency;
  };
  // Why the holder of `previous` must not have an attempt above `entry`'s; nothing when it may.
  std::optional<Refusal> CheckStale(const Entry& entry, const std::optional<Attempt>& previous,
                                    TimeNs now) const;
  Entry& Touch(const std::string& request_id);

  const RequestTableOptions options_;
  const TimeNs started_ns_;
  uint64_t epoch_;
  absl::flat_hash_map<std::string, Entry> entries_;
  std::list<std::string> recency_;  // the most recent first
};

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_CORE_REQUEST_TABLE_H_
