// The Coordinator service: a thin shell of locks, clocks, logs and metrics around CoordinatorCore.
// Owned by the role's main; gRPC's threads call the methods, the role's ticker calls Tick.
//
// Invariants:
// 1. Messages are parsed before and answers filled after the core's lock; nothing is logged and no
//    call is finished under it.
// 2. A call whose caller has gone is granted nothing.
// 3. In a group, only the leader answers Place and Drain; standbys take reports.
#ifndef REPRISE_COORDINATOR_SERVER_COORDINATOR_SERVICE_H_
#define REPRISE_COORDINATOR_SERVER_COORDINATOR_SERVICE_H_

#include <atomic>
#include <memory>
#include <string>

#include "common/clock.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/leader/leadership.h"
#include "reprise/v1/cluster.grpc.pb.h"

namespace reprise::coordinator {

class CoordinatorService final : public v1::Coordinator::CallbackService {
 public:
  // `metrics` reads this service at every scrape: its server stops before the service goes.
  // One of a group (options.standby) refuses orders until it has joined.
  CoordinatorService(const CoreOptions& options, const Clock& clock, MetricsRegistry* metrics,
                     std::string name = "coordinator");
  ~CoordinatorService();

  void Tick();
  // Once, and begins. Made late because a group knows its members by the address of their door.
  void Join(LeadershipOptions options);
  // Gives leadership up: nothing is called back afterwards.
  void StopLeading();

  grpc::ServerUnaryReactor* Report(grpc::CallbackServerContext* context,
                                   const v1::ReportRequest* request,
                                   v1::ReportResponse* response) override;
  grpc::ServerUnaryReactor* Place(grpc::CallbackServerContext* context,
                                  const v1::PlaceRequest* request,
                                  v1::PlaceResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;
  grpc::ServerUnaryReactor* Lead(grpc::CallbackServerContext* context,
                                 const v1::LeadRequest* request,
                                 v1::LeadResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::ModelInfo* response) override;
  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest* request,
                                      v1::ClusterStatus* response) override;

 private:
  void RegisterMetrics(MetricsRegistry* metrics);
  Status DoReport(const v1::ReportRequest& request, v1::ReportResponse* response);
  Status DoPlace(const v1::PlaceRequest& request, v1::PlaceResponse* response);
  Status DoDrain(const v1::DrainRequest& request, v1::DrainResponse* response);
  Status DoLead(const v1::LeadRequest& request, v1::LeadResponse* response);
  // OK while this coordinator may give orders.
  Status CheckOrders() const;
  void OnLeadership(const Leadership::View& view);
  void RegisterLeaderMetrics(MetricsRegistry* metrics);
  Leadership::View LeaderView() const;
  Status DoGetModel(const v1::GetModelRequest& request, v1::ModelInfo* response);
  void DoGetStatus(v1::ClusterStatus* response);
  CoordinatorCore::Stats CoreStats();

  const Clock& clock_;
  const std::string name_;
  const bool grouped_;
  const uint64_t incarnation_;
  Histogram& decision_seconds_;
  Counter& malformed_total_;
  Mutex mu_;
  CoordinatorCore core_ GUARDED_BY(mu_);
  std::unique_ptr<Leadership> owned_leadership_;
  std::atomic<Leadership*> leadership_{nullptr};  // set once
};

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_SERVER_COORDINATOR_SERVICE_H_
