// The gateway's side of the coordinators: placements, the served model, reports, and the verdicts
// on workers. Reports go to every coordinator of the group, so that a standby is warm; placements
// are asked of the one believed to lead. Owned by the gateway; any thread.
//
// Invariants:
// 1. Every call has a deadline, and its callback is called exactly once, on a gRPC thread, the
// timer
//    queue's or the caller's.
// 2. A coordinator that is away changes nothing here but the answers to Place.
// 3. An answer of a lower leader epoch than the highest seen is refused: who gave it leads no more.
#ifndef REPRISE_GATEWAY_SERVER_COORDINATOR_LINK_H_
#define REPRISE_GATEWAY_SERVER_COORDINATOR_LINK_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/gate.h"
#include "common/mutex.h"
#include "coordinator/client/reporter.h"
#include "gateway/generation/request_validation.h"
#include "gateway/server/gateway_metrics.h"
#include "gateway/server/session_registry.h"
#include "gateway/server/timer_queue.h"
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
  std::vector<std::string> addresses;  // host:port, at least one
  std::string model;                   // empty: the only one
  // From the model folder; `served` takes name and sizes from the coordinator.
  worker::GenerationDefaults defaults;
  int32_t folder_vocab = 0;         // of the model folder, 0: there is none
  int64_t place_timeout_ms = 5000;  // of a placement, over all tries
  int64_t try_timeout_ms = 1000;    // of one try, where there are other coordinators to try
};

class CoordinatorLink {
 public:
  // The others outlive this.
  CoordinatorLink(CoordinatorLinkOptions options, SessionRegistry& registry, WorkerLinks& links,
                  TimerQueue& timers, GatewayMetrics& metrics);
  ~CoordinatorLink();

  // Reports as `self` from now on, and learns the model by it. Once.
  void Start(const v1::NodeInfo& self);

  using Placed = std::function<void(const Status&, v1::PlaceResponse)>;
  // UNAVAILABLE "coordinator unreachable" when no coordinator answered in time; the leader's own
  // refusals as they are, retry hint included.
  void Place(v1::PlaceRequest request, int64_t timeout_ms, Placed placed);

  // UNAVAILABLE (with the reason) until a coordinator has named a model we can serve.
  StatusOr<std::shared_ptr<const ModelSnapshot>> model() const;

  // Says goodbye and returns when no call is under way.
  void Stop();

 private:
  // One coordinator of the group.
  struct Door {
    std::string address;
    std::shared_ptr<grpc::Channel> channel;
    std::unique_ptr<v1::Coordinator::Stub> stub;
    // Of its reporting thread.
    uint64_t incarnation = 0;     // that knows our requests
    bool tell_requests = false;   // in the next report
    uint64_t verdicts_known = 0;  // version
    std::unique_ptr<Reporter> reporter;
  };
  struct Placing;

  void Try(const std::shared_ptr<Placing>& placing);
  void OnAnswer(const std::shared_ptr<Placing>& placing, const grpc::Status& status);
  // Why the answer is not the leader's; OK when it is.
  Status JudgeAnswer(const Placing& placing, const grpc::Status& status);
  void TryNext(const std::shared_ptr<Placing>& placing, const Status& why);
  size_t LeaderAfter(size_t door, absl::string_view refusal) const;
  bool TakeEpoch(uint64_t epoch);

  void FillReport(const Door& door, v1::ReportRequest* request);
  void OnAnswered(Door& door, const v1::ReportResponse& response);
  void TakeVerdict(const v1::Verdict& verdict);
  void RefreshModel(const Door& door);
  void TakeModel(const v1::ModelInfo& info);

  const CoordinatorLinkOptions options_;
  SessionRegistry& registry_;
  WorkerLinks& links_;
  TimerQueue& timers_;
  GatewayMetrics& metrics_;
  std::vector<std::unique_ptr<Door>> doors_;  // as many as addresses, in their order
  Gate gate_;                                 // entered by every call

  mutable Mutex mu_;
  std::shared_ptr<const ModelSnapshot> model_ GUARDED_BY(mu_);
  Status no_model_ GUARDED_BY(mu_);
  TimeNs model_asked_ GUARDED_BY(mu_) = INT64_MIN;
  size_t leader_ GUARDED_BY(mu_) = 0;          // door believed to lead
  uint64_t leader_epoch_ GUARDED_BY(mu_) = 0;  // highest seen
  bool stopping_ GUARDED_BY(mu_) = false;
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_COORDINATOR_LINK_H_
