// The gRPC service reprise.v1.Worker around one engine: routes requests in, and emits, replies and
// calls out. Owned by the worker's main. Any thread; the engine calls in on its step thread.
//
// Invariants:
// 1. A request's events go to the stream it came on; a stream that ends cancels its requests.
// 2. Messages that name another incarnation of this worker are refused.
// 3. Nothing is called on the engine or on a stream under the service's lock.
#ifndef REPRISE_WORKER_SERVER_WORKER_SERVICE_H_
#define REPRISE_WORKER_SERVER_WORKER_SERVICE_H_

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "reprise/v1/cluster.grpc.pb.h"
#include "worker/engine/engine.h"
#include "worker/server/gateway_stream.h"
#include "worker/server/prefill_call.h"

namespace reprise::worker {

class WorkerService : public v1::Worker::CallbackService, public EngineSink {
 public:
  explicit WorkerService(NodeKey self);
  ~WorkerService() override { Detach(); }

  // Calls before this are refused as UNAVAILABLE. The engine outlives Detach.
  void Attach(Engine* engine);
  // No event reaches the engine afterwards; outgoing calls have ended.
  void Detach();
  // Ends all gateways' streams, so that the door can be shut at once.
  void CloseStreams(const Status& why);

  // What this worker serves, for a coordinator that has forgotten: at most `max`.
  void FillRequests(v1::ReportRequest* report, int max) const;

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

  Status Post(Event event);
  void OnRequest(const Stream& stream, const v1::ServeRequest& request);
  void OnSubmit(const Stream& stream, const v1::Submit& message);
  void OnCancel(const v1::ServeRequest::CancelOne& message);
  void OnStreamClosed(const Stream& stream);
  static void Refuse(const Stream& stream, const v1::Submit& message, const Status& why);
  Status CheckIncarnation(uint64_t meant) const;

  const NodeKey self_;
  PrefillClient client_;

  mutable Mutex engine_mu_;  // held while posting, so that Detach waits; never with mu_
  Engine* engine_ GUARDED_BY(engine_mu_) = nullptr;

  mutable Mutex mu_;
  std::map<RequestKey, Stream> requests_ GUARDED_BY(mu_);
  std::set<Stream> streams_ GUARDED_BY(mu_);
  std::map<LegKey, std::shared_ptr<PrefillCall>> legs_ GUARDED_BY(mu_);
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_SERVER_WORKER_SERVICE_H_
