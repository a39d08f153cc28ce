// Both ends of a Prefill call. PrefillCall is the serving side, answered when the engine says so;
// PrefillClient is the calling side, with one channel per peer. Any thread.
//
// The serving side sends its initial metadata when the leg's blocks are listed as pending: only
// then may the caller subscribe to them, or it would find them missing.
//
// Invariants:
// 1. Every call made ends in exactly one PrefillReply event, whatever happens to the other side.
// 2. Every call served is finished exactly once; one whose caller is gone cancels its leg.
#ifndef REPRISE_WORKER_SERVER_PREFILL_CALL_H_
#define REPRISE_WORKER_SERVER_PREFILL_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "common/gate.h"
#include "common/mutex.h"
#include "common/status.h"
#include "reprise/v1/cluster.grpc.pb.h"
#include "worker/engine/core/types.h"

namespace reprise::worker {

class PrefillCall : public grpc::ServerUnaryReactor,
                    public std::enable_shared_from_this<PrefillCall> {
 public:
  // `cancelled` is called at most once, when the caller has left before the answer.
  PrefillCall(v1::PrefillResponse* response, std::function<void()> cancelled)
      : response_(response), cancelled_(std::move(cancelled)) {}

  void Open() { self_ = shared_from_this(); }
  void Accept();
  void Answer(const ReplyPrefill& reply);
  void Refuse(const Status& status);

  void OnCancel() override;
  void OnDone() override;

 private:
  v1::PrefillResponse* const response_;  // the library's, until OnDone
  const std::function<void()> cancelled_;
  std::shared_ptr<PrefillCall> self_;  // from Open to OnDone
  Mutex mu_;
  bool accepted_ GUARDED_BY(mu_) = false;
  bool finished_ GUARDED_BY(mu_) = false;
};

class PrefillClient {
 public:
  // `post` takes PrefillStarted and PrefillReply events.
  explicit PrefillClient(std::function<void(Event)> post) : post_(std::move(post)) {}
  ~PrefillClient() { Stop(); }

  void Call(const CallPrefill& call, TimeNs now);
  // Gives the leg up, or lets its pages go.
  void Release(const ReleasePrefill& release);
  // Cancels everything and returns when no call is under way.
  void Stop();

 private:
  class Outgoing;
  class ReleaseCall;
  using LegKey = std::pair<RequestKey, uint32_t>;
  std::shared_ptr<v1::Worker::Stub> StubOf(const std::string& address);
  void Forget(const LegKey& key, const Outgoing* call);

  const std::function<void(Event)> post_;
  Mutex mu_;
  std::map<std::string, std::shared_ptr<v1::Worker::Stub>> stubs_ GUARDED_BY(mu_);  // by address
  std::map<LegKey, std::shared_ptr<Outgoing>> calls_ GUARDED_BY(mu_);
  bool stopped_ GUARDED_BY(mu_) = false;
  Gate gate_;  // entered by every call
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_SERVER_PREFILL_CALL_H_
