// Kills aimed at every named moment of the protocol (common/failpoint.h): which process is to die
// there, and what brings it there. Played by the benchmark `roles`. One thread.
#ifndef REPRISE_TESTS_FAILOVER_PHASES_H_
#define REPRISE_TESTS_FAILOVER_PHASES_H_

#include <string>
#include <vector>

#include "common/status.h"
#include "tests/cluster/checked_load.h"
#include "tests/cluster/cluster.h"
#include "tests/cluster/setting.h"

namespace reprise::harness {

// What, besides the load, leads to the moment.
enum class Provocation {
  kNone,
  kClientLeaves,  // a client of gateway-0 goes away
  kGatewayDies,   // gateway-0 dies and starts anew: its clients go elsewhere
  kWorkerDies,    // decode-3 dies: its requests go elsewhere
  kDrained,       // the victim gets SIGTERM
  kLeaderDies,    // a standby stands for election
};

struct Phase {
  const char* failpoint;
  std::string victim;  // "leader" and "standby": whichever coordinator that is
  Provocation provocation = Provocation::kNone;
  int nth = 1;  // hit to die at
};

// One for each failpoint, in their order; for a cluster of PhaseSetting.
std::vector<Phase> AllPhases();
// The standing cluster, whose decode-0 restores what it could as well compute again: a planner that
// finds that cheaper would pass by the moments of a restore.
Setting PhaseSetting(const std::string& program);

struct PhaseOutcome {
  bool hit = false;  // the victim died there
  LoadTotals totals;
};

// Arms the victim, provokes (some times over, when it was not hit), waits for its death under a
// load of `streams`, ends the load and repairs the cluster.
StatusOr<PhaseOutcome> PlayPhase(Cluster& cluster, const Setting& setting, const Phase& phase,
                                 int streams, int64_t first_request);

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_FAILOVER_PHASES_H_
