// The gateway's membership: reports to every coordinator of the group, the model the cluster
// serves, and the leader's verdicts on workers. Owned by the gateway; any thread.
//
// Invariants:
// 1. A coordinator that is away changes nothing here: the last model stays.
// 2. A coordinator that has forgotten whom we serve is told in the next report.
#ifndef REPRISE_GATEWAY_SERVER_COORDINATOR_LINK_H_
#define REPRISE_GATEWAY_SERVER_COORDINATOR_LINK_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/gate.h"
#include "common/mutex.h"
#include "coordinator/client/leader_epoch.h"
#include "coordinator/client/reporter_group.h"
#include "gateway/generation/request_validation.h"
#include "gateway/server/session_registry.h"
#include "gateway/server/worker_links.h"
#include "kvstore/block/block_id.h"
#include "reprise/v1/cluster.grpc.pb.h"

namespace reprise::gateway {

// The model as served now.
struct ModelSnapshot {
  v1::ModelInfo info;
  ServedModel served;
  kv::ChainContext chain;
};

struct CoordinatorLinkOptions {
  std::vector<std::string> coordinators;  // host:port, at least one
  std::string model;                      // empty: the only one
  // From the model folder; `served` takes name and sizes from the coordinator.
  worker::GenerationDefaults defaults;
  int32_t folder_vocab = 0;  // of the model folder, 0: there is none
};

class CoordinatorLink {
 public:
  // The others outlive this.
  CoordinatorLink(CoordinatorLinkOptions options, SessionRegistry& registry, WorkerLinks& links,
                  LeaderEpoch& leader_epoch);
  ~CoordinatorLink();

  // Reports as `self` from now on, and learns the model by it. Once.
  void Start(const v1::NodeInfo& self);

  // UNAVAILABLE (with the reason) until a coordinator has named a model we can serve.
  StatusOr<std::shared_ptr<const ModelSnapshot>> model() const;

  // Says goodbye and returns when no call is under way.
  void Stop();

 private:
  // One coordinator of the group. Of its reporting thread.
  struct Peer {
    std::unique_ptr<v1::Coordinator::Stub> stub;
    uint64_t incarnation = 0;    // that knows our requests
    bool tell_requests = false;  // in the next report
  };

  void FillReport(size_t index, v1::ReportRequest* request);
  void OnAnswered(size_t index, const v1::ReportResponse& response);
  void TakeVerdict(const v1::Verdict& verdict);
  void RefreshModel(v1::Coordinator::Stub& coordinator);
  void TakeModel(const v1::ModelInfo& info);

  const CoordinatorLinkOptions options_;
  SessionRegistry& registry_;
  WorkerLinks& links_;
  LeaderEpoch& leader_epoch_;
  std::vector<Peer> peers_;  // one a coordinator, in their order
  Gate gate_;                // entered by every call

  mutable Mutex mu_;
  std::shared_ptr<const ModelSnapshot> model_ GUARDED_BY(mu_);
  Status no_model_ GUARDED_BY(mu_);
  TimeNs model_asked_ GUARDED_BY(mu_) = INT64_MIN;

  std::unique_ptr<ReporterGroup> reports_;  // last: it calls the above
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_COORDINATOR_LINK_H_
