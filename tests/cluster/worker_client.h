// Speaks the cluster protocol to one worker as a gateway does, so that a benchmark or test places
// each request itself: which prefill worker, which sources, which stores. Any thread.
//
// Invariants:
// 1. A result is complete when the worker has said `done`, or holds the reason why it never will.
// 2. Tokens out of order, twice or after an end make the result's status INTERNAL.
#ifndef REPRISE_TESTS_CLUSTER_WORKER_CLIENT_H_
#define REPRISE_TESTS_CLUSTER_WORKER_CLIENT_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/mutex.h"
#include "common/status.h"
#include "common/thread.h"
#include "reprise/v1/cluster.grpc.pb.h"

namespace reprise::harness {

struct WorkerBranch {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  std::vector<std::vector<std::pair<int32_t, float>>> top;  // per token
  std::vector<TimeNs> arrived_ns;                           // of RealClock()
  v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
};

struct WorkerResult {
  Status status;
  std::vector<WorkerBranch> branches;
  int32_t cached_tokens = 0;
  TimeNs submitted_ns = 0;
  TimeNs done_ns = 0;
};

class WorkerClient {
 public:
  static StatusOr<std::unique_ptr<WorkerClient>> Connect(const v1::NodeRef& worker);
  ~WorkerClient();

  // Fills in the incarnation and, when absent, attempt 1.1; request ids must differ. Tokens that
  // earlier attempts emitted stand first in the result.
  Status Submit(v1::Submit submit);
  Status Cancel(const std::string& request_id);
  // DEADLINE_EXCEEDED when it is not complete in time. Forgets the request.
  StatusOr<WorkerResult> Wait(const std::string& request_id, TimeNs timeout_ns);
  // Until the request has `tokens` tokens over all branches, or is complete.
  Status WaitForTokens(const std::string& request_id, size_t tokens, TimeNs timeout_ns);

  // Submits all, in order, at most `in_flight` at a time; results in the same order. The first
  // request that failed is the error.
  StatusOr<std::vector<WorkerResult>> RunAll(const std::vector<v1::Submit>& submits, int in_flight,
                                             TimeNs timeout_ns);
  StatusOr<WorkerResult> Run(const v1::Submit& submit, TimeNs timeout_ns);

 private:
  struct Pending {
    WorkerResult result;
    bool done = false;
  };
  explicit WorkerClient(const v1::NodeRef& worker);
  Status Write(const v1::ServeRequest& request);
  void ReadLoop();
  void Take(const v1::RequestEvent& event) REQUIRES(mu_);

  const v1::NodeRef worker_;
  const std::unique_ptr<v1::Worker::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::ServeRequest, v1::ServeResponse>> stream_;
  Mutex write_mu_;  // one write at a time; never taken with mu_
  mutable Mutex mu_;
  CondVar changed_;
  std::map<std::string, Pending> pending_ GUARDED_BY(mu_);
  int done_ GUARDED_BY(mu_) = 0;  // of all requests ever
  bool broken_ GUARDED_BY(mu_) = false;
  Thread reader_;
};

// The ref of a prefix held by `node`: its first `blocks` blocks.
v1::PrefixSource SourceOf(const v1::NodeRef& node, int32_t blocks);

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_CLUSTER_WORKER_CLIENT_H_
