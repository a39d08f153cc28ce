// Clients as ours are: each request over a stream to some gateway; when it breaks after the request
// was accepted, resumed at whatever gateway lives, by its handle, with or without its transcript.
// Some leave, for a while or for good. Owned by the cluster; one thread.
#ifndef REPRISE_TESTS_SIMULATION_SIM_CLIENTS_H_
#define REPRISE_TESTS_SIMULATION_SIM_CLIENTS_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/simulation/journal.h"
#include "tests/simulation/sim_gateway.h"

namespace reprise::sim {

struct ClientTotals {
  uint64_t resumes = 0;
  uint64_t left = 0;  // came back later
  uint64_t left_for_good = 0;
  uint64_t handles_lost = 0;  // came back to a request that is nowhere any more
};

class SimClients {
 public:
  // `gateways`: the living ones.
  SimClients(Context& context, Journal& journal, std::function<std::vector<SimGateway*>()> gateways)
      : context_(context),
        world_(context.world),
        journal_(journal),
        gateways_(std::move(gateways)) {}

  void Submit(const ClientRequest& request);
  void CancelSomebody();
  // Breaks some client's stream from its side.
  void LeaveSomebody();
  // Requests still to be asked for again.
  int waiting() const { return waiting_; }
  const ClientTotals& totals() const { return totals_; }

 private:
  struct Client {
    ClientRequest request;
    std::string handle;  // empty: not accepted
    TimeNs submitted = 0;
    StreamId stream = 0;
    Pid gateway = 0;
    bool waits = false;  // will resume
    int resumes = 0;
  };

  void Connect(const std::string& id);
  std::shared_ptr<const ClientEvents> EventsOf(const std::string& id, StreamId stream);
  Client* Current(const std::string& id, StreamId stream);
  void OnBroken(const std::string& id, StreamId stream);
  void OnRefused(const std::string& id, const Status& status);
  void ResumeAfter(const std::string& id, TimeNs delay);
  void AskAnew(const std::string& id);
  void End(const std::string& id);
  std::vector<std::string> Streaming() const;

  Context& context_;
  World& world_;
  Journal& journal_;
  const std::function<std::vector<SimGateway*>()> gateways_;
  std::map<std::string, Client> clients_;  // with a request that has not ended
  int waiting_ = 0;
  ClientTotals totals_;
};

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_SIM_CLIENTS_H_
