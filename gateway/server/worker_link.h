// One Serve stream to one worker incarnation. Made and forgotten by WorkerLinks; keeps itself alive
// until gRPC has called OnDone. Any thread.
//
// Invariant: it knows which requests are at the worker (by what was sent, until their Done), and is
// watched exactly while there are some.
#ifndef REPRISE_GATEWAY_SERVER_WORKER_LINK_H_
#define REPRISE_GATEWAY_SERVER_WORKER_LINK_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "gateway/server/link_watch.h"
#include "gateway/server/worker_links.h"
#include "reprise/v1/cluster.grpc.pb.h"

namespace reprise::gateway {

class WorkerLink final : public grpc::ClientBidiReactor<v1::ServeRequest, v1::ServeResponse>,
                         public std::enable_shared_from_this<WorkerLink> {
 public:
  WorkerLink(WorkerLinks& links, const v1::NodeRef& worker, uint64_t serial, Gate::Holder holder);

  // Once; until then messages wait behind the greeting.
  void Open();
  // False when the link is broken: the message is lost, and the requests were or will be told.
  bool Send(v1::ServeRequest message);
  // The first reason given is what the requests are told.
  void Cancel(const Status& why, Loss loss);
  // Due every LinkWatch::kTickNs while it has requests; false when it has none.
  bool OnTick(TimeNs now);

  uint64_t serial() const { return serial_; }
  const NodeKey& worker() const { return worker_; }

  void OnWriteDone(bool ok) override;
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  void WriteNext();
  void Deliver(TimeNs now);
  void Track(const v1::ServeRequest& message, TimeNs now) REQUIRES(mu_);
  void Forget(const std::string& request_id, const v1::Attempt& attempt) REQUIRES(mu_);

  WorkerLinks& links_;
  const NodeKey worker_;
  const uint64_t serial_;
  const std::unique_ptr<v1::Worker::Stub> stub_;
  Gate::Holder holder_;
  grpc::ClientContext context_;
  std::shared_ptr<WorkerLink> self_;  // from Open to OnDone
  v1::ServeResponse response_;        // reused by every read

  // Of the reading thread: to whom the last message with events went, in order. A worker's steps
  // name its requests in the same order, so this finds nearly all of the next one's.
  struct Routed {
    std::string request_id;
    std::shared_ptr<RequestSink> sink;
  };
  std::vector<Routed> routed_;
  std::vector<Routed> routing_;  // of the message at hand
  uint64_t routed_version_ = 0;  // of the registry

  Mutex mu_;
  std::deque<v1::ServeRequest> queue_ GUARDED_BY(mu_);  // the front is being written
  bool writing_ GUARDED_BY(mu_) = true;                 // the greeting, from Open on
  bool broken_ GUARDED_BY(mu_) = false;
  bool reached_ GUARDED_BY(mu_) = false;  // the greeting has left
  Status why_ GUARDED_BY(mu_);
  Loss loss_ GUARDED_BY(mu_) = Loss::kOther;  // with why_
  std::unordered_map<std::string, Attempt> requests_ GUARDED_BY(mu_);
  LinkWatch watch_ GUARDED_BY(mu_);
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_WORKER_LINK_H_
