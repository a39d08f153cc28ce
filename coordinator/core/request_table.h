// The highest attempt known of each request, where it runs and who may take it over, and the
// compare-and-set that grants the next attempt. Owned by the coordinator core; one thread at a
// time.
//
// Invariants:
// 1. Of all callers that hold the same previous attempt, one is granted the next.
// 2. A granted attempt is higher than every attempt known of the request, and is granted once,
//    ever: within an owner epoch only the table that began it counts on, and only while its
//    coordinator leads without a break. Above an attempt that this table did not grant it begins
//    another.
// 3. A grant nobody took up (no node reports it within `lost_grant_ns`: the answer was lost) does
//    not lock its request: the holder of the attempt before it may have one above it.
// 4. Fail closed: what this table has not seen, it grants an attempt for only when whoever could
//    have seen it had time to say so.
// 5. Whoever attaches shows the resume handle's digest, compared in constant time. An attach gets
//    an owner epoch above every one known of the request, so all older owners are refused from
//    then on.
// The least recently granted or reported requests are forgotten beyond the limit.
#ifndef REPRISE_COORDINATOR_CORE_REQUEST_TABLE_H_
#define REPRISE_COORDINATOR_CORE_REQUEST_TABLE_H_

#include <cstdint>
#include <list>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "common/clock.h"
#include "common/ids.h"
#include "common/limits.h"
#include "common/sha256.h"
#include "coordinator/core/refusal.h"
#include "coordinator/core/types.h"

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

// Who asks for an attempt, and by what right.
struct Claim {
  std::string request_id;
  std::optional<Attempt> previous{};         // the highest the caller has held
  std::optional<Digest256> handle_digest{};  // absent: not resumable
  bool attach = false;                       // by the handle alone
  uint32_t crashes = 0;
};

class RequestTable {
 public:
  RequestTable(const RequestTableOptions& options, TimeNs now)
      : options_(options), started_ns_(now), epoch_(options.epoch_base) {}

  // From now on epochs are granted above `base`, and requests not known are waited for as by a
  // fresh coordinator: another one may have granted them.
  void Restart(uint64_t base, TimeNs now);

  // Why the attempt cannot be granted; nothing when it can.
  std::optional<Refusal> Check(const Claim& claim, TimeNs now) const;
  // Grants it to run on `decode`. Only after Check found nothing, in the same event.
  Attempt Grant(const Claim& claim, const NodeKey& decode, TimeNs now);
  // Raises the owner of a request that goes on where it runs. As Grant, and only for an attach.
  Attempt GrantAttach(const Claim& claim, TimeNs now);
  // What node `from` says of a request it serves.
  void OnReported(const RequestReport& report, const NodeKey& from);

  std::optional<Attempt> Highest(const std::string& request_id) const;
  // Where the highest attempt decodes, as far as it was placed or reported.
  std::optional<NodeKey> Runner(const std::string& request_id) const;
  // Of all that is known: attempts that ended by a crash.
  uint32_t Crashes(const Claim& claim) const;
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    Attempt highest;
    std::optional<Attempt> granted_from;  // what the caller held when `highest` was granted
    std::optional<TimeNs> granted_ns;     // absent: known from reports only
    uint64_t reign = 0;                   // in which `highest` was granted here; 0: not here
    bool taken_up = false;                // a node reported `highest`
    std::optional<NodeKey> runner;        // decodes `highest`, or the attempt it was attached from
    std::optional<Digest256> handle_digest;
    uint32_t crashes = 0;
    std::list<std::string>::iterator recency;
  };
  // Why the holder of `previous` must not have an attempt above `entry`'s; nothing when it may.
  std::optional<Refusal> CheckStale(const Entry& entry, const std::optional<Attempt>& previous,
                                    TimeNs now) const;
  std::optional<Refusal> CheckAttach(const Claim& claim, const Entry* entry, TimeNs now) const;
  std::optional<Refusal> CheckPrevious(const Claim& claim, const Entry* entry, TimeNs now) const;
  static std::optional<Refusal> CheckEpochs(const Attempt& highest);
  std::optional<Refusal> CheckKnown(absl::string_view what, TimeNs now) const;
  const Entry* Find(const std::string& request_id) const;
  Entry& Touch(const std::string& request_id);
  Attempt Raise(Entry& entry, const Claim& claim, TimeNs now);

  const RequestTableOptions options_;
  TimeNs started_ns_;
  uint64_t epoch_;
  uint64_t reign_ = 1;  // how often this coordinator has begun to grant
  absl::flat_hash_map<std::string, Entry> entries_;
  std::list<std::string> recency_;  // the most recent first
};

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_CORE_REQUEST_TABLE_H_
