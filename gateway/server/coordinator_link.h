// The gateway's side of the coordinator: placements, the served model, reports, and the verdicts on
// workers. Owned by the gateway; any thread.
//
// Invariants:
// 1. Every call has a deadline, and its callback is called exactly once, on a gRPC thread or on the
//    caller's.
// 2. A coordinator that is away changes nothing here but the answers to Place.
#ifndef REPRISE_GATEWAY_SERVER_COORDINATOR_LINK_H_
#define REPRISE_GATEWAY_SERVER_COORDINATOR_LINK_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "common/clock.h"
#include "common/gate.h"
#include "common/mutex.h"
#include "coordinator/client/reporter.h"
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
  std::string address;  // host:port
  std::string model;    // empty: the only one
  // From the model folder; `served` takes name and sizes from the coordinator.
  worker::GenerationDefaults defaults;
  int32_t folder_vocab = 0;  // of the model folder, 0: there is none
  int64_t place_timeout_ms = 5000;
};

class CoordinatorLink {
 public:
  // `registry` and `links` outlive this.
  CoordinatorLink(CoordinatorLinkOptions options, SessionRegistry& registry, WorkerLinks& links);
  ~CoordinatorLink();

  // Reports as `self` from now on, and learns the model by it. Once.
  void Start(const v1::NodeInfo& self);

  using Placed = std::function<void(const Status&, v1::PlaceResponse)>;
  // UNAVAILABLE "coordinator unreachable" when no coordinator answered; its own refusals as they
  // are, retry hint included.
  void Place(v1::PlaceRequest request, int64_t timeout_ms, Placed placed);

  // UNAVAILABLE (with the reason) until the coordinator has named a model we can serve.
  StatusOr<std::shared_ptr<const ModelSnapshot>> model() const;

  // Says goodbye and returns when no call is under way.
  void Stop();

 private:
  void FillReport(v1::ReportRequest* request);
  void OnAnswered(const v1::ReportResponse& response);
  void RefreshModel();
  void TakeModel(const v1::ModelInfo& info);
  void AskVerdicts();
  void TakeVerdicts(const v1::ClusterStatus& status);
  Status Unreachable(const grpc::Status& status) const;

  const CoordinatorLinkOptions options_;
  SessionRegistry& registry_;
  WorkerLinks& links_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Coordinator::Stub> stub_;
  Gate gate_;  // entered by every call

  mutable Mutex mu_;
  std::shared_ptr<const ModelSnapshot> model_ GUARDED_BY(mu_);
  Status no_model_ GUARDED_BY(mu_);

  // Of the reporting thread.
  TimeNs model_asked_ = INT64_MIN;
  uint64_t coordinator_ = 0;            // incarnation that knows our requests
  bool tell_requests_ = false;          // in the next report
  std::unique_ptr<Reporter> reporter_;  // from Start on; last: it calls the above
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_COORDINATOR_LINK_H_
