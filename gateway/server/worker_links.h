// The gateway's streams to workers: one Serve stream per worker incarnation carries all requests
// the gateway has there. A stream is failed when its worker falls silent or stands still
// (LinkWatch) or by the coordinator's verdict. Owned by the gateway; any thread.
//
// Invariants:
// 1. A link is opened by the first Submit for its incarnation and never repaired: once broken it is
//    forgotten, every request is told once, and the next Submit opens another.
// 2. Messages of one link leave in the order of Send; its events are handed on in order of arrival.
// 3. No lock is held while a request is called or gRPC is entered.
#ifndef REPRISE_GATEWAY_SERVER_WORKER_LINKS_H_
#define REPRISE_GATEWAY_SERVER_WORKER_LINKS_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/gate.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "gateway/server/gateway_metrics.h"
#include "gateway/server/session_registry.h"
#include "gateway/server/timer_queue.h"
#include "reprise/v1/cluster.pb.h"

namespace reprise::gateway {

class WorkerLink;

class WorkerLinks {
 public:
  // `self` introduces the gateway; the others outlive this.
  WorkerLinks(NodeKey self, SessionRegistry& registry, TimerQueue& timers, GatewayMetrics& metrics);
  ~WorkerLinks();

  // The link to this incarnation, opened when there is none. Null after Shutdown.
  std::shared_ptr<WorkerLink> Get(const v1::NodeRef& worker);
  // The link when there is one.
  std::shared_ptr<WorkerLink> Find(const NodeKey& worker);
  std::vector<NodeKey> workers() const;
  // The coordinator's verdict: its stream is cancelled, its requests are told.
  void Fail(const NodeKey& worker, const Status& why, Loss loss);
  // Breaks all links and returns when gRPC is done with them.
  void Shutdown();

 private:
  friend class WorkerLink;
  class Ticker;
  void OnBroken(WorkerLink& link, const Status& status, Loss loss);
  // A link has requests: it is ticked from now on.
  void Watch();
  void OnTick(TimeNs now);
  std::vector<std::shared_ptr<WorkerLink>> All() const;

  const NodeKey self_;
  SessionRegistry& registry_;
  TimerQueue& timers_;
  GatewayMetrics& metrics_;
  const uint64_t timer_key_;
  const std::shared_ptr<Ticker> ticker_;  // shared with the timer queue while it calls
  Gate gate_;                             // entered by every link
  mutable Mutex mu_;
  std::map<NodeKey, std::shared_ptr<WorkerLink>> links_ GUARDED_BY(mu_);
  uint64_t next_serial_ GUARDED_BY(mu_) = 1;
  TimeNs tick_at_ GUARDED_BY(mu_) = TimerQueue::kNone;
  bool stopping_ GUARDED_BY(mu_) = false;
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_WORKER_LINKS_H_
