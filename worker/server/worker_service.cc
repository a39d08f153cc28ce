#include "worker/server/worker_service.h"

#include <utility>

#include "common/clock.h"
#include "common/grpc_status.h"
#include "common/log.h"
#include "worker/server/convert.h"

namespace reprise::worker {
namespace {

// A unary call answered at once.
class Answered : public grpc::ServerUnaryReactor {
 public:
  explicit Answered(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

WorkerService::WorkerService(NodeKey self)
    : self_(std::move(self)),
      client_([this](Event event) { static_cast<void>(Post(std::move(event))); }) {}

void WorkerService::Attach(Engine* engine) {
  MutexLock lock(engine_mu_);
  engine_ = engine;
}

void WorkerService::Detach() {
  client_.Stop();
  MutexLock lock(engine_mu_);
  engine_ = nullptr;
}

Status WorkerService::Post(Event event) {
  MutexLock lock(engine_mu_);
  if (engine_ == nullptr) return absl::UnavailableError("the worker is not serving");
  return engine_->Post(std::move(event));
}

Status WorkerService::CheckIncarnation(uint64_t meant) const {
  if (meant == self_.incarnation) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("worker ", self_.name, " is incarnation ", self_.incarnation, ", not ", meant));
}

// Serve ------------------------------------------------------------------------------------------

grpc::ServerBidiReactor<v1::ServeRequest, v1::ServeResponse>* WorkerService::Serve(
    grpc::CallbackServerContext*) {
  const auto stream = std::make_shared<GatewayStream>(GatewayStream::Handlers{
      .request = [this](const Stream& from,
                        const v1::ServeRequest& request) { OnRequest(from, request); },
      .closed = [this](const Stream& which) { OnStreamClosed(which); }});
  {
    MutexLock lock(mu_);
    streams_.insert(stream);
  }
  stream->Open();
  return stream.get();  // keeps itself until it is done
}

void WorkerService::OnRequest(const Stream& stream, const v1::ServeRequest& request) {
  switch (request.message_case()) {
    case v1::ServeRequest::kHello:
      LogInfo("gateway_connected", {{"gateway", request.hello().gateway()},
                                    {"incarnation", request.hello().gateway_incarnation()}});
      return;
    case v1::ServeRequest::kSubmit:
      return OnSubmit(stream, request.submit());
    case v1::ServeRequest::kCancel:
      return OnCancel(request.cancel());
    case v1::ServeRequest::kAttach:
    case v1::ServeRequest::kDetach:
      return stream->Close(absl::UnimplementedError("this worker cannot hand requests over"));
    case v1::ServeRequest::MESSAGE_NOT_SET:
      break;
  }
  stream->Close(absl::InvalidArgumentError("a Serve message without content"));
}

void WorkerService::OnSubmit(const Stream& stream, const v1::Submit& message) {
  if (const Status fits = CheckIncarnation(message.worker_incarnation()); !fits.ok()) {
    return Refuse(stream, message, fits);
  }
  StatusOr<Submit> submit = ParseSubmit(message, RealClock().NowNs());
  if (!submit.ok()) return Refuse(stream, message, submit.status());
  const RequestKey key = submit->key;
  {
    MutexLock lock(mu_);
    if (!streams_.contains(stream)) return;
    // The same attempt again: whoever brought it first keeps its events.
    if (!requests_.emplace(key, stream).second) return;
  }
  const Status posted = Post(*std::move(submit));
  if (posted.ok()) return;
  {
    MutexLock lock(mu_);
    requests_.erase(key);
  }
  Refuse(stream, message, posted);
}

void WorkerService::Refuse(const Stream& stream, const v1::Submit& message, const Status& why) {
  v1::ServeResponse response;
  v1::RequestEvent* event = response.add_events();
  event->set_request_id(message.request_id());
  *event->mutable_attempt() = message.attempt();
  event->mutable_done()->set_code(static_cast<int32_t>(why.code()));
  event->mutable_done()->set_message(std::string(why.message()));
  stream->Send(std::move(response));
}

void WorkerService::OnCancel(const v1::ServeRequest::CancelOne& message) {
  const StatusOr<RequestKey> key = ParseKey(message.request_id(), message.attempt());
  if (!key.ok()) return;  // no request can have such a name
  static_cast<void>(
      Post(Cancel{*key, message.deadline() ? EndReason::kDeadline : EndReason::kCancelled}));
}

void WorkerService::OnStreamClosed(const Stream& stream) {
  std::vector<RequestKey> orphans;
  {
    MutexLock lock(mu_);
    streams_.erase(stream);
    for (auto at = requests_.begin(); at != requests_.end();) {
      if (at->second == stream) {
        orphans.push_back(at->first);
        at = requests_.erase(at);
      } else {
        ++at;
      }
    }
  }
  for (const RequestKey& key : orphans) static_cast<void>(Post(Cancel{key, EndReason::kCancelled}));
}

void WorkerService::CloseStreams(const Status& why) {
  std::set<Stream> streams;
  {
    MutexLock lock(mu_);
    streams = streams_;
  }
  for (const Stream& stream : streams) stream->Close(why);
}

void WorkerService::OnEmits(std::vector<Emit> emits) {
  std::map<Stream, v1::ServeResponse> by_stream;
  {
    MutexLock lock(mu_);
    for (const Emit& emit : emits) {
      const auto found = requests_.find(emit.key);
      if (found == requests_.end()) continue;
      Fill(emit, by_stream[found->second].add_events());
      if (emit.done) requests_.erase(found);
    }
  }
  for (auto& [stream, response] : by_stream) stream->Send(std::move(response));
}

void WorkerService::FillRequests(v1::ReportRequest* report, int max) const {
  MutexLock lock(mu_);
  for (const auto& [key, stream] : requests_) {
    if (report->requests_size() >= max) return;
    v1::RequestReport* request = report->add_requests();
    request->set_request_id(key.id);
    Fill(key.attempt, request->mutable_attempt());
  }
}

// Prefill ----------------------------------------------------------------------------------------

grpc::ServerUnaryReactor* WorkerService::Prefill(grpc::CallbackServerContext*,
                                                 const v1::PrefillRequest* request,
                                                 v1::PrefillResponse* response) {
  if (const Status fits = CheckIncarnation(request->worker_incarnation()); !fits.ok()) {
    return new Answered(ToGrpc(fits));
  }
  StatusOr<SubmitPrefill> leg = ParsePrefill(*request, RealClock().NowNs());
  if (!leg.ok()) return new Answered(ToGrpc(leg.status()));
  const LegKey key{leg->key, leg->leg};
  const auto call = std::make_shared<PrefillCall>(response, [this, key] {
    static_cast<void>(Post(reprise::worker::CancelPrefill{key.first, key.second}));
  });
  {
    MutexLock lock(mu_);
    if (!legs_.emplace(key, call).second) {
      return new Answered(ToGrpc(absl::AlreadyExistsError("this leg is being computed")));
    }
  }
  call->Open();
  if (const Status posted = Post(*std::move(leg)); !posted.ok()) {
    {
      MutexLock lock(mu_);
      legs_.erase(key);
    }
    call->Refuse(posted);
  }
  return call.get();  // keeps itself until it is done
}

grpc::ServerUnaryReactor* WorkerService::CancelPrefill(grpc::CallbackServerContext*,
                                                       const v1::CancelPrefillRequest* request,
                                                       v1::CancelPrefillResponse*) {
  const StatusOr<RequestKey> key = ParseKey(request->request_id(), request->attempt());
  if (!key.ok()) return new Answered(ToGrpc(key.status()));
  const Status posted =
      Post(reprise::worker::CancelPrefill{*key, static_cast<uint32_t>(request->leg())});
  return new Answered(ToGrpc(posted));
}

void WorkerService::OnAcceptPrefill(const AcceptPrefill& accept) {
  std::shared_ptr<PrefillCall> call;
  {
    MutexLock lock(mu_);
    const auto found = legs_.find({accept.key, accept.leg});
    if (found != legs_.end()) call = found->second;
  }
  if (call) call->Accept();
}

void WorkerService::OnReplyPrefill(ReplyPrefill reply) {
  std::shared_ptr<PrefillCall> call;
  {
    MutexLock lock(mu_);
    const auto found = legs_.find({reply.key, reply.leg});
    if (found == legs_.end()) return;
    call = std::move(found->second);
    legs_.erase(found);
  }
  call->Answer(reply);
}

void WorkerService::OnCallPrefill(CallPrefill call) { client_.Call(call, RealClock().NowNs()); }

void WorkerService::OnReleasePrefill(ReleasePrefill release) { client_.Release(release); }

}  // namespace reprise::worker
