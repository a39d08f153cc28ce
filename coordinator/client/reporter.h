// A node's side of membership: reports to the coordinator at the interval it asks for, keeps trying
// while it is away, and carries KV events or snapshot chunks. Owned by the role's server.
//
// Threads: one reporting thread calls `fill` and `answered`; Wake and Stop may come from any
// thread.
//
// Invariants:
// 1. One report is in flight at a time; sequence numbers rise.
// 2. Stop sends one last report with `leaving` set, then nothing.
// 3. A report names the versions of the lists this coordinator sent last, so an answer repeats
//    none; a coordinator that was restarted sends them all.
#ifndef REPRISE_COORDINATOR_CLIENT_REPORTER_H_
#define REPRISE_COORDINATOR_CLIENT_REPORTER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "common/mutex.h"
#include "common/status.h"
#include "common/thread.h"
#include "coordinator/client/leader_epoch.h"
#include "kvstore/block/event_log.h"
#include "reprise/v1/cluster.grpc.pb.h"

namespace reprise {

struct ReporterOptions {
  std::string coordinator;  // host:port
  v1::NodeInfo node;
  int32_t interval_ms = 200;  // until the coordinator says otherwise
  int32_t call_timeout_ms = 1000;
  // Another process has taken this node's name: it is fenced. Called on the reporting thread with
  // the coordinator's refusal (ABORTED, STALE_INCARNATION), again with every refused report. The
  // role must stop serving: what it says counts no more.
  std::function<void(const Status&)> fenced = nullptr;
  // Told to the coordinator; null: there is no group.
  const LeaderEpoch* leader_epoch = nullptr;
};

class Reporter {
 public:
  using Fill = std::function<void(v1::ReportRequest*)>;
  using Answered = std::function<void(const v1::ReportResponse&)>;

  Reporter(ReporterOptions options, Fill fill, Answered answered);
  ~Reporter();

  // Reports at once, e.g. because many events wait.
  void Wake();
  void Stop();
  // The next answer repeats every list.
  void ForgetVersions() { forget_.store(true, std::memory_order_release); }
  // True from the first answered report on, false after two failures in a row.
  bool connected() const;

 private:
  void Loop();
  bool ReportOnce(bool leaving);
  void PrepareRequest(bool leaving);
  void OnRefused(const grpc::Status& status);

  const ReporterOptions options_;
  const Fill fill_;
  const Answered answered_;
  std::unique_ptr<v1::Coordinator::Stub> stub_;
  std::atomic<bool> forget_{false};

  // Of the reporting thread. Messages are kept so that their memory is.
  uint64_t sequence_ = 0;
  uint64_t coordinator_incarnation_ = 0;  // that sent the versions
  uint64_t stores_version_ = 0;
  uint64_t verdicts_version_ = 0;
  v1::ReportRequest request_;
  v1::ReportResponse response_;

  mutable Mutex mu_;
  CondVar wake_;
  bool stopping_ GUARDED_BY(mu_) = false;
  bool woken_ GUARDED_BY(mu_) = false;
  int32_t interval_ms_ GUARDED_BY(mu_);
  int failures_ GUARDED_BY(mu_) = 2;
  Thread thread_;  // last: it uses all of the above
};

// Puts what the event reporter prepared into a request.
void FillKvPart(const kv::EventReporter::Part& part, v1::ReportRequest* request);
kv::EventReporter::Answer KvAnswer(const v1::ReportResponse& response);

}  // namespace reprise

#endif  // REPRISE_COORDINATOR_CLIENT_REPORTER_H_
