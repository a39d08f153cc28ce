// The gRPC service reprise.v1.Worker around one engine: routes requests in, and emits, replies and
// calls out. Owned by the worker's main. Any thread; the engine calls in on its step thread.
//
// Invariants:
// 1. A request's events go to the stream it came on or that attached last; a stream that ends makes
//    orphans of its requests.
// 2. Messages that name another incarnation of this worker are refused, and orders of a leader
//    below the highest seen.
// 3. A stream that has requests hears of this worker at least every limits::kServeHeartbeatMs.
// 4. Nothing is called on the engine or on a stream under the service's lock.
#ifndef REPRISE_WORKER_SERVER_WORKER_SERVICE_H_
#define REPRISE_WORKER_SERVER_WORKER_SERVICE_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "common/thread.h"
#include "coordinator/client/leader_epoch.h"
#include "reprise/v1/cluster.grpc.pb.h"
#include "worker/engine/engine.h"
#include "worker/server/gateway_stream.h"
#include "worker/server/prefill_call.h"

namespace reprise::worker {

class WorkerService : public v1::Worker::CallbackService, public EngineSink {
 public:
  // `leader_epoch` outlives this.
  WorkerService(NodeKey self, LeaderEpoch& leader_epoch);
  ~WorkerService() override;

  // Calls before this are refused as UNAVAILABLE. The engine outlives Detach.
  void Attach(Engine* engine);
  // No event reaches the engine afterwards; outgoing calls have ended.
  void Detach();
  // Ends all gateways' streams, so that the door can be shut at once.
  void CloseStreams(const Status& why);

  // What this worker serves or keeps for whoever attaches, for a coordinator that has forgotten: at
  // most `max`.
  void FillRequests(v1::ReportRequest* report, int max);

  grpc::ServerBidiReactor<v1::ServeRequest, v1::ServeResponse>* Serve(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* Prefill(grpc::CallbackServerContext* context,
                                    const v1::PrefillRequest* request,
                                    v1::PrefillResponse* response) override;
  grpc::ServerUnaryReactor* CancelPrefill(grpc::CallbackServerContext* context,
                                          const v1::CancelPrefillRequest* request,
                                          v1::CancelPrefillResponse* response) override;

  void OnEmits(std::vector<Emit> emits) override;
  void OnCallPrefill(CallPrefill call) override;
  void OnReleasePrefill(ReleasePrefill release) override;
  void OnAcceptPrefill(const AcceptPrefill& accept) override;
  void OnReplyPrefill(ReplyPrefill reply) override;

 private:
  using Stream = std::shared_ptr<GatewayStream>;
  using LegKey = std::pair<RequestKey, uint32_t>;
  struct Served {
    Stream stream;              // null: nobody listens
    std::string handle_digest;  // empty: nobody can attach
    TimeNs window_ns = 0;
    bool taken = true;         // false: an attach that the engine has not judged yet
    TimeNs kept_until_ns = 0;  // it has ended, and is kept for whoever attaches; 0: it runs
  };

  Status Post(Event event);
  void OnRequest(const Stream& stream, const v1::ServeRequest& request);
  void OnSubmit(const Stream& stream, const v1::Submit& message);
  void OnAttach(const Stream& stream, const v1::Attach& message);
  void OnDetach(const v1::ServeRequest::Detach& message);
  void OnCancel(const v1::ServeRequest::CancelOne& message);
  void OnStreamClosed(const Stream& stream);
  // A Submit or an Attach.
  template <typename Message>
  static void Refuse(const Stream& stream, const Message& message, const Status& why);
  template <typename Message>
  Status CheckOrder(const Message& message);
  // Posts what came on the stream for a request that is entered as `served`.
  template <typename Message>
  void Enter(const RequestKey& key, Served served, const Message& message, Event event);
  void Route(const Emit& emit, TimeNs now, std::map<Stream, v1::ServeResponse>& by_stream)
      REQUIRES(mu_);
  Status CheckIncarnation(uint64_t meant) const;
  void Beat();
  void FillProgress(v1::ServeResponse* response) const;

  const NodeKey self_;
  PrefillClient client_;

  mutable Mutex engine_mu_;  // held while posting, so that Detach waits; never with mu_
  Engine* engine_ GUARDED_BY(engine_mu_) = nullptr;

  LeaderEpoch& leader_epoch_;

  mutable Mutex mu_;
  CondVar beat_;
  std::map<RequestKey, Served> requests_ GUARDED_BY(mu_);
  std::set<Stream> streams_ GUARDED_BY(mu_);
  std::map<LegKey, std::shared_ptr<PrefillCall>> legs_ GUARDED_BY(mu_);
  bool stopping_ GUARDED_BY(mu_) = false;
  Thread thread_;  // beats; last: it uses all of the above
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_SERVER_WORKER_SERVICE_H_
