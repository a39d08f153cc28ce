// Placements, asked of whichever coordinator of the group leads: found out by asking, followed when
// it changes, waited for while one is elected. Owned by the gateway; any thread.
//
// Invariants:
// 1. Every placement is answered exactly once, by its deadline, on a gRPC thread, the timer queue's
//    or the caller's.
// 2. An answer of a lower leader epoch than the highest seen is refused: who gave it leads no more.
#ifndef REPRISE_GATEWAY_SERVER_PLACEMENT_CLIENT_H_
#define REPRISE_GATEWAY_SERVER_PLACEMENT_CLIENT_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/gate.h"
#include "common/mutex.h"
#include "common/status.h"
#include "coordinator/client/leader_epoch.h"
#include "gateway/server/timer_queue.h"
#include "reprise/v1/cluster.grpc.pb.h"

namespace reprise::gateway {

struct PlacementOptions {
  std::vector<std::string> coordinators;  // host:port, at least one
  int64_t timeout_ms = 5000;              // of a placement, over all tries
  int64_t try_timeout_ms = 1000;          // of one try, where there are others to try
};

class PlacementClient {
 public:
  // The others outlive this.
  PlacementClient(PlacementOptions options, TimerQueue& timers, LeaderEpoch& leader_epoch);
  ~PlacementClient();

  using Placed = std::function<void(const Status&, v1::PlaceResponse)>;
  // UNAVAILABLE "coordinator unreachable" when no coordinator answered in time; the leader's own
  // refusals as they are, retry hint included.
  void Place(v1::PlaceRequest request, int64_t timeout_ms, Placed placed);

  // Refuses what comes and returns when no placement is under way.
  void Stop();

 private:
  struct Door {
    std::string address;
    std::shared_ptr<grpc::Channel> channel;
    std::unique_ptr<v1::Coordinator::Stub> stub;
  };
  struct Placing;

  void Try(const std::shared_ptr<Placing>& placing);
  void OnAnswer(const std::shared_ptr<Placing>& placing, const grpc::Status& status);
  // Why the answer is not the leader's; OK when it is.
  Status JudgeAnswer(const Placing& placing, const grpc::Status& status);
  void TryNext(const std::shared_ptr<Placing>& placing, const Status& why);
  size_t LeaderAfter(size_t door, absl::string_view refusal) const;

  const PlacementOptions options_;
  TimerQueue& timers_;
  LeaderEpoch& leader_epoch_;
  std::vector<Door> doors_;  // one a coordinator, in their order
  Gate gate_;                // entered by every placement

  mutable Mutex mu_;
  size_t leader_ GUARDED_BY(mu_) = 0;  // door believed to lead
  bool stopping_ GUARDED_BY(mu_) = false;
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_PLACEMENT_CLIENT_H_
