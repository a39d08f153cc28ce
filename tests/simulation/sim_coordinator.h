// A coordinator process around CoordinatorCore, as coordinator/server runs it. Owned by the
// cluster; one thread.
#ifndef REPRISE_TESTS_SIMULATION_SIM_COORDINATOR_H_
#define REPRISE_TESTS_SIMULATION_SIM_COORDINATOR_H_

#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "coordinator/core/coordinator_core.h"
#include "tests/simulation/context.h"

namespace reprise::sim {

class SimCoordinator {
 public:
  SimCoordinator(Context& context, uint64_t incarnation);

  Pid pid() const { return pid_; }
  const coordinator::CoordinatorCore& core() const { return core_; }

  StatusOr<coordinator::ReportAnswer> OnReport(const coordinator::Report& report);
  std::variant<coordinator::Placement, coordinator::Refusal> OnPlace(
      const coordinator::PlaceQuery& query);
  std::vector<coordinator::NodeSummary> Nodes() const { return core_.Nodes(context_.world.now()); }

 private:
  void Tick();

  Context& context_;
  const Pid pid_;
  coordinator::CoordinatorCore core_;
};

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_SIM_COORDINATOR_H_
