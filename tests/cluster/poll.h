// Waiting for something that only asking tells: a status page, a metric, a file of another process.
// Header-only; any thread.
#ifndef REPRISE_TESTS_CLUSTER_POLL_H_
#define REPRISE_TESTS_CLUSTER_POLL_H_

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/clock.h"
#include "common/role.h"
#include "common/status.h"

namespace reprise::harness {

inline constexpr TimeNs kPollNs = 10 * kMillisecond;

// Asks until `came` is true; DEADLINE_EXCEEDED names `what` did not come.
template <typename Predicate>
Status PollUntil(absl::string_view what, TimeNs timeout_ns, const Predicate& came) {
  StopSignal never;
  const TimeNs until = RealClock().NowNs() + timeout_ns;
  while (!came()) {
    if (RealClock().NowNs() > until) {
      return absl::DeadlineExceededError(
          absl::StrCat(what, " did not come within ", SecondsFromNs(timeout_ns), " s"));
    }
    never.WaitFor(kPollNs);
  }
  return absl::OkStatus();
}

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_CLUSTER_POLL_H_
