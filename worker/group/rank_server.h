// A process that is a rank of a group, or a spare: holds the weights of the places it may take,
// waits for a driver's Join, and follows it until the epoch ends. Owned by the role's main.
//
// Threads: gRPC's call the methods; one thread of the server's own joins and computes.
//
// Invariants:
// 1. It serves one driver at a time: another worker's Join is refused until the epoch has ended, an
//    earlier process or epoch of the same worker always.
// 2. A Join of a later epoch ends the present one, and so does Stop: also while it still waits for
//    the other ranks.
#ifndef REPRISE_WORKER_GROUP_RANK_SERVER_H_
#define REPRISE_WORKER_GROUP_RANK_SERVER_H_

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>

#include "common/metrics.h"
#include "common/mutex.h"
#include "common/status.h"
#include "common/thread.h"
#include "reprise/v1/group.grpc.pb.h"
#include "worker/group/group_links.h"
#include "worker/group/rank_follower.h"
#include "worker/group/rank_model.h"
#include "worker/parallel/ucx_group.h"

namespace reprise::worker {

struct RankServerOptions {
  std::string name = "rank";
  kv::GroupSplit split;  // whose places it may take
  int32_t rank = -1;     // the place whose weights it loads at start; -1: every place's
  parallel::UcxGroupOptions transport;
  ModelExecutorOptions model;
  ComputeOn on;
  TimeNs connect_ns = kGroupConnectNs;
};

class RankServer final : public v1::GroupRank::CallbackService {
 public:
  // Loads. INVALID_ARGUMENT names a rank or a split that does not fit. `metrics` may be null.
  static StatusOr<std::unique_ptr<RankServer>> Start(const RankServerOptions& options,
                                                     MetricsRegistry* metrics);
  // No call is under way any more.
  ~RankServer() override;

  std::string group_address() const;

  grpc::ServerUnaryReactor* Look(grpc::CallbackServerContext* context,
                                 const v1::LookRequest* request,
                                 v1::LookResponse* response) override;
  grpc::ServerUnaryReactor* Join(grpc::CallbackServerContext* context,
                                 const v1::JoinRequest* request,
                                 v1::JoinResponse* response) override;
  // Ends the epoch and the thread; later Joins are refused.
  void Stop();

 private:
  // Stage and tensor place: ranks that differ in their context place alone share weights.
  using Place = std::pair<uint32_t, uint32_t>;
  struct Order {
    EpochSpec spec;
    std::string owner;
    uint64_t generation = 0;
    GroupTerms terms;
    grpc::ServerUnaryReactor* reactor = nullptr;
    v1::JoinResponse* response = nullptr;
  };

  RankServer(const RankServerOptions& options, std::unique_ptr<parallel::GroupHost> host);
  Status Preload();
  Status Prepare(uint32_t rank);
  void AddMetrics(MetricsRegistry* metrics);
  StatusOr<Order> Parse(const v1::JoinRequest& request) const;
  Status Admit(const Order& order) REQUIRES(mu_);
  void Loop();
  // The model of the place that the order names, loaded if need be.
  StatusOr<RankModel*> MakeReady(const Order& order, int64_t* load_ms);
  // Joins the others and follows the driver until the epoch ends, by `end` at the latest: why.
  Status Serve(const Order& order, RankModel& model, const std::stop_token& end);
  Status EndReason() const;

  const RankServerOptions options_;
  const uint64_t incarnation_;
  const std::unique_ptr<parallel::GroupHost> host_;
  RankCounters counters_;
  std::atomic<uint64_t> epochs_{0};

  mutable Mutex mu_;
  CondVar changed_;
  std::map<Place, std::unique_ptr<RankModel>> models_;  // of the thread; keys GUARDED_BY(mu_)
  std::vector<uint32_t> ready_ GUARDED_BY(mu_);         // ranks whose place is in models_
  std::optional<Order> order_ GUARDED_BY(mu_);          // not begun
  std::string owner_ GUARDED_BY(mu_);                   // empty: nobody
  uint64_t generation_ GUARDED_BY(mu_) = 0;             // of the owner, the highest heard
  uint64_t epoch_ GUARDED_BY(mu_) = 0;
  std::stop_source end_ GUARDED_BY(mu_);  // of the epoch in hand
  bool stopping_ GUARDED_BY(mu_) = false;
  Thread thread_;  // last: it uses all of the above
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_RANK_SERVER_H_
