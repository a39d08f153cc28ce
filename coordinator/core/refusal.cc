#include "coordinator/core/refusal.h"

namespace reprise::coordinator {
namespace {

struct Entry {
  const char* name;
  absl::StatusCode code;
};

Entry Lookup(RefusalCode code) {
  switch (code) {
    case RefusalCode::kNoWorkers:
      return {"NO_WORKERS", absl::StatusCode::kUnavailable};
    case RefusalCode::kNoRoom:
      return {"NO_ROOM", absl::StatusCode::kResourceExhausted};
    case RefusalCode::kWrongFormat:
      return {"WRONG_FORMAT", absl::StatusCode::kFailedPrecondition};
    case RefusalCode::kTooLong:
      return {"TOO_LONG", absl::StatusCode::kInvalidArgument};
    case RefusalCode::kMalformed:
      return {"MALFORMED", absl::StatusCode::kInvalidArgument};
    case RefusalCode::kStaleAttempt:
      return {"STALE_ATTEMPT", absl::StatusCode::kAborted};
    case RefusalCode::kRecovering:
      return {"RECOVERING", absl::StatusCode::kUnavailable};
    case RefusalCode::kWrongHandle:
      return {"WRONG_HANDLE", absl::StatusCode::kPermissionDenied};
    case RefusalCode::kNotRunning:
      return {"NOT_RUNNING", absl::StatusCode::kNotFound};
    case RefusalCode::kCrashLoop:
      return {"CRASH_LOOP", absl::StatusCode::kInternal};
  }
  return {"UNKNOWN", absl::StatusCode::kInternal};
}

}  // namespace

const char* RefusalName(RefusalCode code) { return Lookup(code).name; }

Status ToStatus(const Refusal& refusal) {
  const Entry entry = Lookup(refusal.code);
  return Status(entry.code, absl::StrCat(entry.name, ": ", refusal.detail));
}

}  // namespace reprise::coordinator
