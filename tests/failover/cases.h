// The failures a cluster must bear, one for each role and some together, each as a story: what
// happens to a cluster under load, and what must then be true. Played by the failover tests and by
// the benchmark `roles`. One thread.
#ifndef REPRISE_TESTS_FAILOVER_CASES_H_
#define REPRISE_TESTS_FAILOVER_CASES_H_

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "common/status.h"
#include "tests/cluster/checked_load.h"
#include "tests/cluster/cluster.h"
#include "tests/cluster/setting.h"

namespace reprise::harness {

struct Case {
  std::string name;
  // The failure; the load runs meanwhile and goes on afterwards.
  std::function<Status(Cluster&)> happens;
  // Of streams under way at that moment, how many may have to be placed again or resumed. The
  // others are untouched neighbours.
  double hit_share_max = 1;
  bool must_hit = true;        // else the failure was none
  bool stale_refused = false;  // somebody that was given up must have been refused
  bool restored = false;       // rows must have come back from replicas
};

inline void PrintTo(const Case& story, std::ostream* out) { *out << story.name; }

// For a cluster of StandingSetting.
std::vector<Case> EveryRole();

// Until the node is given up, and a second longer, so that its requests run elsewhere.
Status AwaitMovedAway(Cluster& cluster, const std::string& name);

// 1 prefill and 4 decode workers, 3 stores with disks, 2 gateways, a group of 2 coordinators, two
// replicas of everything; steps short enough for many stories a minute.
Setting StandingSetting(const std::string& program);

struct Outcome {
  LoadTotals totals;
  int64_t under_way = 0;      // streams that had a token when it happened and had not ended
  int64_t under_way_hit = 0;  // of those
  double restored_rows = 0;
  double replayed_rows = 0;
  double stale_refused = 0;
};

// A load of `streams` streams at a time runs, the case happens in its middle, the load goes on for
// as long again and ends; then everything is repaired. An error is one of the harness, or says what
// of the story was not true.
StatusOr<Outcome> Play(Cluster& cluster, const Setting& setting, const Case& story, int streams,
                       int64_t first_request);

// OK when every stream was exact and the story's own conditions hold.
Status Judge(const Case& story, const Outcome& outcome);

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_FAILOVER_CASES_H_
