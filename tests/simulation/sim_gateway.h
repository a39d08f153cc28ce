// A gateway process around one SessionCore per client stream, as gateway/server runs them:
// placements from whichever coordinator leads, one watched stream per worker incarnation, verdicts,
// takeover of requests resumed here. Owned by the cluster; one thread.
#ifndef REPRISE_TESTS_SIMULATION_SIM_GATEWAY_H_
#define REPRISE_TESTS_SIMULATION_SIM_GATEWAY_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/core/types.h"
#include "gateway/generation/core/session_core.h"
#include "gateway/server/link_watch.h"
#include "tests/simulation/journal.h"
#include "tests/simulation/report_loop.h"
#include "tests/simulation/sim_worker.h"

namespace reprise::sim {

// What a client asks for over a stream of its own.
struct ClientCall {
  ClientRequest request;
  TimeNs deadline_left = 0;  // 0: none
  bool resume = false;
  bool has_input = true;
  std::string handle;                          // of a resume
  std::vector<std::vector<int32_t>> received;  // likewise
};

// Where the words of one stream end up at its client.
struct ClientEvents {
  std::function<void(const std::string& handle)> accepted;
  std::function<void(const gateway::TokenEvent&)> token;
  std::function<void(const gateway::BranchEnd&)> branch_ended;
  std::function<void(const gateway::SessionEnd&)> finished;
  std::function<void(const Status&)> refused;  // the stream's status, not OK
};

class SimGateway {
 public:
  SimGateway(Context& context, const NodeKey& key, const Peers& peers);

  Pid pid() const { return pid_; }
  const NodeKey& key() const { return key_; }
  // What a client sends over `stream`; its events go back over it.
  void OnGenerate(StreamId stream, const ClientCall& call,
                  std::shared_ptr<const ClientEvents> client);
  void OnClientGone(StreamId stream);
  void OnCancel(const std::string& id);
  size_t sessions() const { return sessions_.size(); }
  const gateway::SessionCounters& totals() const { return totals_; }
  uint64_t links_failed() const { return links_failed_; }
  uint64_t attached() const { return attached_; }

 private:
  struct Session {
    uint64_t serial = 0;
    ClientCall call;
    StreamId client_stream = 0;
    std::shared_ptr<const ClientEvents> client;
    std::unique_ptr<gateway::SessionCore> core;
    coordinator::Placement placement;  // the latest granted
    std::vector<coordinator::NodeRef> replicas;
    StreamId link = 0;
    uint64_t timer = 0;
    bool client_gone = false;
  };
  struct Link {
    StreamId stream = 0;
    std::map<std::string, Attempt> requests;
    gateway::LinkWatch watch;
    bool ticking = false;
    bool reached = false;
    Status why;
    gateway::Loss loss = gateway::Loss::kCrash;
  };
  struct Placing {
    std::string id;
    uint64_t serial = 0;
    uint64_t ask = 0;
    coordinator::PlaceQuery query;
    size_t door = 0;
    size_t tries = 0;
  };
  using SessionEvent = std::function<void(gateway::SessionCore&, gateway::Actions&)>;

  TimeNs Now() const { return world_.Clock(pid_); }
  coordinator::NodeInfo info() const;
  void FillReport(size_t coordinator, coordinator::Report& report);
  void Do(const std::string& id, uint64_t serial, const SessionEvent& event);
  void Apply(Session& session, const SessionEvent& event);
  void Carry(Session& session, const gateway::Actions& actions);
  void ArmTimer(Session& session);
  void Finish(Session& session, const gateway::SessionEnd& finish);
  void ToClient(const Session& session, const char* kind, uint64_t digest,
                std::function<void(const ClientEvents&)> tell);

  // Placements.
  void Place(Session& session, const gateway::AskPlacement& ask);
  void Try(const Placing& placing);
  void TryNext(Placing placing, const Status& why);
  void OnPlaced(const Placing& placing, const coordinator::Placement& placement);

  // Links to workers (sim_gateway_links.cc).
  SimWorker* LinkFor(Session& session, const NodeKey& worker);
  void Submit(Session& session, const gateway::SubmitAttempt& submit);
  void Attach(Session& session, const gateway::Placement& attach);
  void CancelAtWorker(const std::string& id, const gateway::CancelWorker& cancel);
  void Detach(const std::string& id, const gateway::Placement& placement);
  Link& LinkTo(SimWorker& worker);
  void Track(const NodeKey& worker, const std::string& id, const Attempt& attempt);
  void Forget(Link& link, const std::string& id, const Attempt& attempt);
  void TickLink(const NodeKey& worker, StreamId stream);
  void FailLink(const NodeKey& worker, const Status& why, gateway::Loss loss);
  void OnLinkBroken(const NodeKey& worker, StreamId stream);
  void OnServeMessage(const NodeKey& worker, StreamId stream,
                      const SimWorker::ServeMessage& message);
  void OnEmit(const worker::Emit& emit);
  void TakeVerdicts(const coordinator::ReportAnswer& answer);

  Context& context_;
  World& world_;
  const NodeKey key_;
  const Pid pid_;
  const Peers peers_;
  uint64_t next_serial_ = 1;
  std::map<std::string, Session> sessions_;
  std::map<NodeKey, Link> links_;
  std::vector<uint64_t> coordinators_;  // incarnations that know our requests
  std::vector<bool> tell_requests_;
  gateway::SessionCounters totals_;
  uint64_t links_failed_ = 0;
  uint64_t attached_ = 0;
  ReportLoop reports_;
};

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_SIM_GATEWAY_H_
