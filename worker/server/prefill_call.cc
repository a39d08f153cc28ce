#include "worker/server/prefill_call.h"

#include <chrono>
#include <vector>

#include "common/clock.h"
#include "common/grpc_status.h"
#include "common/limits.h"
#include "common/rpc_server.h"
#include "worker/server/convert.h"

namespace reprise::worker {
namespace {

constexpr int kReleaseTimeoutMs = 2000;

}  // namespace

// Serving ----------------------------------------------------------------------------------------

void PrefillCall::Accept() {
  MutexLock lock(mu_);
  if (finished_ || std::exchange(accepted_, true)) return;
  StartSendInitialMetadata();
}

void PrefillCall::Answer(const ReplyPrefill& reply) {
  if (!reply.status.ok()) return Refuse(reply.status);
  MutexLock lock(mu_);
  if (std::exchange(finished_, true)) return;
  Fill(reply, response_);
  Finish(grpc::Status::OK);
}

void PrefillCall::Refuse(const Status& status) {
  MutexLock lock(mu_);
  if (std::exchange(finished_, true)) return;
  Finish(ToGrpc(status));
}

void PrefillCall::OnCancel() {
  {
    MutexLock lock(mu_);
    if (finished_) return;
  }
  cancelled_();
  Refuse(absl::CancelledError("the caller left"));
}

void PrefillCall::OnDone() {
  const auto self = std::move(self_);  // may destroy this
}

// Calling ----------------------------------------------------------------------------------------

class PrefillClient::Outgoing : public grpc::ClientUnaryReactor,
                                public std::enable_shared_from_this<Outgoing> {
 public:
  Outgoing(PrefillClient* client, const CallPrefill& call, TimeNs now, Gate::Holder holder)
      : client_(client),
        key_(call.leg.key, call.leg.leg),
        branches_(call.leg.sampling.n),
        holder_(std::move(holder)) {
    Fill(call, now, &request_);
  }
  void Start(v1::Worker::Stub& stub) {
    self_ = shared_from_this();
    stub.async()->Prefill(&context_, &request_, &response_, this);
    StartCall();
  }
  void Cancel() { context_.TryCancel(); }

  void OnReadInitialMetadataDone(bool ok) override {
    if (ok) client_->post_(PrefillStarted{key_.first, key_.second});
  }
  void OnDone(const grpc::Status& status) override {
    PrefillReply reply;
    reply.status = FromGrpc(status);
    if (reply.status.ok()) {
      StatusOr<PrefillReply> parsed = ParsePrefillResponse(response_, branches_);
      if (parsed.ok()) {
        reply = *std::move(parsed);
      } else {
        reply.status = parsed.status();
      }
    }
    reply.key = key_.first;
    reply.leg = key_.second;
    client_->post_(std::move(reply));
    client_->Forget(key_, this);
    const auto self = std::move(self_);  // may destroy this, and with it leave the gate
  }

 private:
  PrefillClient* const client_;
  const LegKey key_;
  const int32_t branches_;
  grpc::ClientContext context_;
  v1::PrefillRequest request_;
  v1::PrefillResponse response_;
  std::shared_ptr<Outgoing> self_;  // from Start to OnDone
  const Gate::Holder holder_;
};

// Best effort: a leg nobody releases lingers for a bounded time.
class PrefillClient::ReleaseCall : public grpc::ClientUnaryReactor {
 public:
  ReleaseCall(v1::Worker::Stub& stub, const ReleasePrefill& release, Gate::Holder holder)
      : holder_(std::move(holder)) {
    request_.set_request_id(release.key.id);
    Fill(release.key.attempt, request_.mutable_attempt());
    request_.set_leg(static_cast<int32_t>(release.leg));
    context_.set_deadline(std::chrono::system_clock::now() +
                          std::chrono::milliseconds(kReleaseTimeoutMs));
    stub.async()->CancelPrefill(&context_, &request_, &response_, this);
    StartCall();
  }
  void OnDone(const grpc::Status&) override { delete this; }

 private:
  grpc::ClientContext context_;
  v1::CancelPrefillRequest request_;
  v1::CancelPrefillResponse response_;
  const Gate::Holder holder_;
};

// Shared: a call that starts keeps its stub while others make room.
std::shared_ptr<v1::Worker::Stub> PrefillClient::StubOf(const std::string& address) {
  MutexLock lock(mu_);
  auto found = stubs_.find(address);
  if (found == stubs_.end()) {
    if (stubs_.size() >= limits::kPeersMax) stubs_.clear();
    found = stubs_.emplace(address, v1::Worker::NewStub(ClusterChannel(address))).first;
  }
  return found->second;
}

void PrefillClient::Call(const CallPrefill& call, TimeNs now) {
  auto holder = gate_.Enter();
  if (!holder) return;  // stopping: nobody waits for the reply
  const auto outgoing = std::make_shared<Outgoing>(this, call, now, *std::move(holder));
  {
    MutexLock lock(mu_);
    if (stopped_) return;
    calls_[{call.leg.key, call.leg.leg}] = outgoing;
  }
  outgoing->Start(*StubOf(call.node.grpc_address));
}

void PrefillClient::Release(const ReleasePrefill& release) {
  std::shared_ptr<Outgoing> running;
  {
    MutexLock lock(mu_);
    const auto found = calls_.find({release.key, release.leg});
    if (found != calls_.end()) running = found->second;
  }
  if (running) running->Cancel();
  auto holder = gate_.Enter();
  if (holder) new ReleaseCall(*StubOf(release.node.grpc_address), release, *std::move(holder));
}

void PrefillClient::Forget(const LegKey& key, const Outgoing* call) {
  std::shared_ptr<Outgoing> last;  // released after the lock
  MutexLock lock(mu_);
  const auto found = calls_.find(key);
  if (found == calls_.end() || found->second.get() != call) return;
  last = std::move(found->second);
  calls_.erase(found);
}

void PrefillClient::Stop() {
  std::vector<std::shared_ptr<Outgoing>> running;
  {
    MutexLock lock(mu_);
    stopped_ = true;
    for (const auto& [key, call] : calls_) running.push_back(call);
  }
  for (const auto& call : running) call->Cancel();
  running.clear();
  gate_.Close();
}

}  // namespace reprise::worker
