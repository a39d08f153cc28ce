// Reads another process's /metrics page: one GET, and sums over a metric's series. For the command
// line, tests and benchmarks; blocking, any thread.
#ifndef REPRISE_COMMON_SCRAPE_H_
#define REPRISE_COMMON_SCRAPE_H_

#include <string>

#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise {

// The body of GET /metrics at host:port. UNAVAILABLE when nobody answers within ten seconds.
StatusOr<std::string> ScrapeMetrics(const std::string& address);

// Sum of all series of `family` in an exposition text; NOT_FOUND when there is none.
StatusOr<double> SumOfFamily(absl::string_view exposition, absl::string_view family);

}  // namespace reprise

#endif  // REPRISE_COMMON_SCRAPE_H_
