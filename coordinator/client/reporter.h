// A node's side of membership: reports to the coordinator at the interval it asks for, keeps trying
// while it is away, and carries KV events or snapshot chunks. Owned by the role's server.
//
// Threads: one reporting thread calls `fill` and `answered`; Wake and Stop may come from any
// thread.
//
// Invariants:
// 1. One report is in flight at a time; sequence numbers rise.
// 2. Stop sends one last report with `leaving` set, then nothing.
#ifndef REPRISE_COORDINATOR_CLIENT_REPORTER_H_
#define REPRISE_COORDINATOR_CLIENT_REPORTER_H_

#include <functional>
#include <memory>
#include <string>

#include "common/mutex.h"
#include "common/status.h"
#include "common/thread.h"
#include "kvstore/block/event_log.h"
#include "reprise/v1/cluster.grpc.pb.h"

namespace reprise {

struct ReporterOptions {
  std::string coordinator;  // host:port
  v1::NodeInfo node;
  int32_t interval_ms = 200;  // until the coordinator says otherwise
  int32_t call_timeout_ms = 1000;
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
  // True from the first answered report on, false after two failures in a row.
  bool connected() const;

 private:
  void Loop();
  bool ReportOnce(bool leaving);

  const ReporterOptions options_;
  const Fill fill_;
  const Answered answered_;
  std::unique_ptr<v1::Coordinator::Stub> stub_;
  uint64_t sequence_ = 0;  // of the reporting thread

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
