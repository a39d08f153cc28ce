// A gateway process around one SessionCore per request, as gateway/server runs them: placements
// from the coordinator, one stream per worker incarnation, verdicts. Owned by the cluster; one
// thread.
#ifndef REPRISE_TESTS_SIMULATION_SIM_GATEWAY_H_
#define REPRISE_TESTS_SIMULATION_SIM_GATEWAY_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/core/types.h"
#include "gateway/generation/core/session_core.h"
#include "tests/simulation/journal.h"
#include "tests/simulation/report_loop.h"
#include "tests/simulation/sim_worker.h"

namespace reprise::sim {

class SimGateway {
 public:
  // `refused` is told when the cluster did not take a request.
  SimGateway(Context& context, const NodeKey& key, const Peers& peers, Journal& journal,
             std::function<void(const ClientRequest&)> refused);

  Pid pid() const { return pid_; }
  void Generate(const ClientRequest& request);
  void Cancel(const std::string& id);
  std::vector<std::string> Running() const;
  const gateway::SessionCounters& totals() const { return totals_; }

 private:
  struct Session {
    ClientRequest request;
    std::unique_ptr<gateway::SessionCore> core;
    coordinator::Placement placement;  // the latest granted
    StreamId link = 0;
    uint64_t timer = 0;
  };
  using SessionEvent = std::function<void(gateway::SessionCore&, gateway::Actions&)>;

  coordinator::NodeInfo info() const;
  void Do(const std::string& id, const SessionEvent& event);
  void Carry(Session& session, const gateway::Actions& actions);
  void ArmTimer(Session& session);
  void Place(Session& session, const gateway::AskPlacement& ask);
  void Submit(Session& session, const gateway::SubmitAttempt& submit);
  void CancelAtWorker(Session& session, const gateway::CancelWorker& cancel);
  void Finish(Session& session, const gateway::SessionEnd& finish);
  StreamId LinkTo(SimWorker& worker);
  void OnLinkBroken(const NodeKey& worker);
  void OnEmit(const worker::Emit& emit);
  void AskVerdicts();
  void TakeVerdicts(const std::vector<coordinator::NodeSummary>& nodes);

  Context& context_;
  World& world_;
  const NodeKey key_;
  const Pid pid_;
  const Peers peers_;
  Journal& journal_;
  const std::function<void(const ClientRequest&)> refused_;
  std::map<std::string, Session> sessions_;
  std::map<NodeKey, StreamId> links_;
  uint64_t coordinator_ = 0;
  bool tell_requests_ = false;
  gateway::SessionCounters totals_;
  ReportLoop reports_;
};

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_SIM_GATEWAY_H_
