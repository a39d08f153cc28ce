// The named refusals of a placement, and their one mapping to absl::Status. Values; any thread.
#ifndef REPRISE_COORDINATOR_CORE_REFUSAL_H_
#define REPRISE_COORDINATOR_CORE_REFUSAL_H_

#include <cstdint>
#include <string>

#include "common/status.h"

namespace reprise::coordinator {

enum class RefusalCode {
  kNoWorkers,     // NO_WORKERS, UNAVAILABLE: no decode worker can be used at all
  kNoRoom,        // NO_ROOM, RESOURCE_EXHAUSTED: every worker is full and its queue long enough
  kWrongFormat,   // WRONG_FORMAT, FAILED_PRECONDITION: the caller's KV format is not the cluster's
  kTooLong,       // TOO_LONG, INVALID_ARGUMENT: no worker could ever hold it
  kMalformed,     // MALFORMED, INVALID_ARGUMENT: the query contradicts itself
  kStaleAttempt,  // STALE_ATTEMPT, ABORTED: another attempt of the request is newer
  kRecovering,    // RECOVERING, UNAVAILABLE: this coordinator is too young to know the request
  kWrongHandle,   // WRONG_HANDLE, PERMISSION_DENIED: not the resume handle of the request
  kNotRunning,    // NOT_RUNNING, NOT_FOUND: attached to without a prompt to place it again by
  kCrashLoop,     // CRASH_LOOP, INTERNAL: the request was in the step of too many crashes
};
inline constexpr RefusalCode kRefusalCodes[] = {
    RefusalCode::kNoWorkers,  RefusalCode::kNoRoom,      RefusalCode::kWrongFormat,
    RefusalCode::kTooLong,    RefusalCode::kMalformed,   RefusalCode::kStaleAttempt,
    RefusalCode::kRecovering, RefusalCode::kWrongHandle, RefusalCode::kNotRunning,
    RefusalCode::kCrashLoop};

struct Refusal {
  RefusalCode code = RefusalCode::kNoWorkers;
  std::string detail;
  int64_t retry_after_ms = 0;  // 0: trying again does not help
};

const char* RefusalName(RefusalCode code);

// The message is "NAME: detail"; the retry hint is the shell's to attach.
Status ToStatus(const Refusal& refusal);

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_CORE_REFUSAL_H_
