// A node's side of membership in a cluster whose coordinators form a group: one Reporter to each,
// so that standbys are warm, and one ear for the one that leads. Owned by the role's server.
//
// Threads: each Reporter has its own, so `fill`, `answered` and `fenced` come from several at once;
// calls of `ordered` come one at a time, in the order their words counted. None may call Stop.
// Everything else may be called from any thread.
//
// Invariants:
// 1. A word of a lower leader epoch than the highest seen reaches nobody; it is counted.
// 2. After another coordinator began to lead, its first word carries every list whole.
#ifndef REPRISE_COORDINATOR_CLIENT_REPORTER_GROUP_H_
#define REPRISE_COORDINATOR_CLIENT_REPORTER_GROUP_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "common/status.h"
#include "coordinator/client/leader_epoch.h"
#include "coordinator/client/reporter.h"
#include "reprise/v1/cluster.pb.h"

namespace reprise {

// "host:port,host:port"; INVALID_ARGUMENT for an empty or repeated one, or more than
// limits::kCoordinatorsMax.
StatusOr<std::vector<std::string>> ParseCoordinators(const std::string& list);

struct ReporterGroupOptions {
  std::vector<std::string> coordinators;  // host:port each, at least one
  v1::NodeInfo node;
  int32_t interval_ms = 200;  // until a coordinator says otherwise
  int32_t call_timeout_ms = 1000;
};

struct ReporterGroupHandlers {
  // The report to coordinator number `index`. KV events are numbered for each: a node keeps one
  // kv::EventReporter per coordinator.
  std::function<void(size_t index, v1::ReportRequest*)> fill;
  // Any coordinator's answer: what concerns the two of them alone (next_event, want_snapshot).
  // True: report to it again at once.
  std::function<bool(size_t index, const v1::ReportResponse&)> answered;
  // The leader's word: stores and verdicts when their version is set, drain, roles, leader_epoch.
  // May be null.
  std::function<void(size_t index, const v1::ReportResponse&)> ordered;
  // See ReporterOptions::fenced. May be null.
  std::function<void(const Status&)> fenced;
};

class ReporterGroup {
 public:
  // `epoch` outlives this.
  ReporterGroup(ReporterGroupOptions options, ReporterGroupHandlers handlers, LeaderEpoch& epoch);
  ~ReporterGroup();

  // Reports to all at once, or to one, e.g. because many events wait for it.
  void Wake();
  void Wake(size_t index);
  void Stop();

  size_t size() const { return reporters_.size(); }
  // The leader was heard and its last two reports were not both lost.
  bool connected() const;
  // Who led last, for calls only a leader answers; 0 while nobody is known.
  size_t leader() const { return leader_.load(std::memory_order_acquire); }

 private:
  void OnAnswered(size_t index, const v1::ReportResponse& response);

  const ReporterGroupHandlers handlers_;
  LeaderEpoch& epoch_;
  std::atomic<size_t> leader_{0};
  Mutex order_mu_;  // held while `ordered` runs, and while nothing else does: it is the order
  bool heard_leader_ GUARDED_BY(order_mu_) = false;
  std::vector<std::unique_ptr<Reporter>> reporters_;  // last: they call the above
};

}  // namespace reprise

#endif  // REPRISE_COORDINATOR_CLIENT_REPORTER_GROUP_H_
