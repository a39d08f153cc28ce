#include "worker/server/worker_service.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/clock.h"
#include "common/grpc_status.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/sha256.h"
#include "worker/server/convert.h"

namespace reprise::worker {
namespace {

// A unary call answered at once.
class Answered : public grpc::ServerUnaryReactor {
 public:
  explicit Answered(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

// What the coordinator compares with a client's; empty for no handle.
std::string DigestOf(const std::string& handle) {
  if (handle.empty()) return {};
  const Digest256 digest = Sha256().Update(handle).Finish();
  return {digest.begin(), digest.end()};
}

}  // namespace

WorkerService::WorkerService(NodeKey self, LeaderEpoch& leader_epoch)
    : self_(std::move(self)),
      client_([this](Event event) { static_cast<void>(Post(std::move(event))); }),
      leader_epoch_(leader_epoch),
      thread_("worker_beat", [this] { Beat(); }) {}

WorkerService::~WorkerService() {
  Detach();
  {
    MutexLock lock(mu_);
    stopping_ = true;
    beat_.NotifyAll();
  }
  thread_.Join();
}

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

// ABORTED, as for every order out of date: whoever sent it asks for a new placement.
Status WorkerService::CheckIncarnation(uint64_t meant) const {
  if (meant == self_.incarnation) return absl::OkStatus();
  return absl::AbortedError(
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
      return OnAttach(stream, request.attach());
    case v1::ServeRequest::kDetach:
      return OnDetach(request.detach());
    case v1::ServeRequest::MESSAGE_NOT_SET:
      break;
  }
  stream->Close(absl::InvalidArgumentError("a Serve message without content"));
}

template <typename Message>
Status WorkerService::CheckOrder(const Message& message) {
  RETURN_IF_ERROR(CheckIncarnation(message.worker_incarnation()));
  if (leader_epoch_.Take(message.leader_epoch())) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("the order is of leader epoch ", message.leader_epoch(),
                                         ", the leader's is ", leader_epoch_.highest()));
}

void WorkerService::OnSubmit(const Stream& stream, const v1::Submit& message) {
  const Status fits = CheckOrder(message);
  StatusOr<Submit> submit = fits.ok() ? ParseSubmit(message, RealClock().NowNs()) : fits;
  if (!submit.ok()) return Refuse(stream, message, submit.status());
  const RequestKey key = submit->key;
  Served served;
  served.stream = stream;
  served.handle_digest = DigestOf(submit->resume_handle);
  served.window_ns = submit->resume_window_ns;
  Enter(key, std::move(served), message, *std::move(submit));
}

void WorkerService::OnAttach(const Stream& stream, const v1::Attach& message) {
  const Status fits = CheckOrder(message);
  StatusOr<reprise::worker::Attach> attach = fits.ok() ? ParseAttach(message) : fits;
  if (!attach.ok()) return Refuse(stream, message, attach.status());
  const RequestKey key = attach->key;
  Served served;
  served.stream = stream;
  served.handle_digest = DigestOf(attach->resume_handle);
  served.taken = false;
  Enter(key, std::move(served), message, *std::move(attach));
}

template <typename Message>
void WorkerService::Enter(const RequestKey& key, Served served, const Message& message,
                          Event event) {
  const Stream stream = served.stream;
  {
    MutexLock lock(mu_);
    if (!streams_.contains(stream)) return;
    // The same attempt again: whoever brought it first keeps its events.
    if (!requests_.emplace(key, std::move(served)).second) return;
    beat_.NotifyAll();
  }
  const Status posted = Post(std::move(event));
  if (posted.ok()) return;
  {
    MutexLock lock(mu_);
    requests_.erase(key);
  }
  Refuse(stream, message, posted);
}

template <typename Message>
void WorkerService::Refuse(const Stream& stream, const Message& message, const Status& why) {
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

void WorkerService::OnDetach(const v1::ServeRequest::Detach& message) {
  const StatusOr<RequestKey> key = ParseKey(message.request_id(), message.attempt());
  if (!key.ok()) return;
  {
    MutexLock lock(mu_);
    const auto found = requests_.find(*key);
    if (found == requests_.end()) return;
    found->second.stream = nullptr;
  }
  static_cast<void>(Post(Orphan{*key}));
}

void WorkerService::OnStreamClosed(const Stream& stream) {
  std::vector<RequestKey> orphans;
  {
    MutexLock lock(mu_);
    streams_.erase(stream);
    for (auto& [key, served] : requests_) {
      if (served.stream != stream) continue;
      served.stream = nullptr;
      // Whoever comes for an end that was sent already is served too, but not waited for.
      if (served.kept_until_ns == 0) orphans.push_back(key);
    }
  }
  for (const RequestKey& key : orphans) static_cast<void>(Post(Orphan{key}));
}

void WorkerService::CloseStreams(const Status& why) {
  std::set<Stream> streams;
  {
    MutexLock lock(mu_);
    streams = streams_;
  }
  for (const Stream& stream : streams) stream->Close(why);
}

void WorkerService::FillProgress(v1::ServeResponse* response) const {
  MutexLock lock(engine_mu_);
  if (engine_ == nullptr) return;
  response->set_progress(engine_->progress());
  response->set_busy(engine_->busy());
}

void WorkerService::Route(const Emit& emit, TimeNs now,
                          std::map<Stream, v1::ServeResponse>& by_stream) {
  const auto found = requests_.find(emit.key);
  if (found == requests_.end()) return;
  Served& served = found->second;
  if (emit.attached) {
    served.taken = true;
    served.window_ns = emit.attached->resume_window_ns;
  }
  const Stream stream = served.stream;
  if (stream) Fill(emit, now, by_stream[stream].add_events());
  if (!emit.done) return;
  const bool kept = served.taken && served.window_ns > 0 && !served.handle_digest.empty() &&
                    (emit.done->status.ok() || absl::IsDeadlineExceeded(emit.done->status));
  if (!kept) {
    requests_.erase(found);
    return;
  }
  // Its end may have been written to a stream that broke: the next to attach hears it.
  served.kept_until_ns = now + served.window_ns;
}

void WorkerService::OnEmits(std::vector<Emit> emits) {
  std::map<Stream, v1::ServeResponse> by_stream;
  const TimeNs now = RealClock().NowNs();
  {
    MutexLock lock(mu_);
    for (const Emit& emit : emits) Route(emit, now, by_stream);
  }
  v1::ServeResponse progress;
  if (!by_stream.empty()) FillProgress(&progress);
  for (auto& [stream, response] : by_stream) {
    response.MergeFrom(progress);
    stream->Send(std::move(response));
  }
}

// Gateways tell a stuck worker from a silent one by it, and a silent one from one with nothing to
// say.
void WorkerService::Beat() {
  constexpr TimeNs kPeriod = NsFromMs(limits::kServeHeartbeatMs / 2);
  for (;;) {
    std::set<Stream> streams;
    {
      MutexLock lock(mu_);
      const auto listens = [](const auto& entry) {
        return entry.second.stream && entry.second.kept_until_ns == 0;
      };
      while (!stopping_ && std::none_of(requests_.begin(), requests_.end(), listens)) {
        beat_.Wait(mu_);
      }
      if (!stopping_) beat_.WaitFor(mu_, std::chrono::nanoseconds(kPeriod));
      if (stopping_) return;
      for (const auto& entry : requests_) {
        if (listens(entry)) streams.insert(entry.second.stream);
      }
    }
    v1::ServeResponse progress;
    if (!streams.empty()) FillProgress(&progress);
    const TimeNs quiet_since = RealClock().NowNs() - kPeriod;
    for (const Stream& stream : streams) {
      if (stream->last_sent_ns() <= quiet_since) stream->Send(progress);
    }
  }
}

void WorkerService::FillRequests(v1::ReportRequest* report, int max) {
  const TimeNs now = RealClock().NowNs();
  MutexLock lock(mu_);
  for (auto at = requests_.begin(); at != requests_.end();) {
    const auto& [key, served] = *at;
    if (served.kept_until_ns != 0 && served.kept_until_ns <= now) {
      at = requests_.erase(at);
      continue;
    }
    ++at;
    if (!served.taken || report->requests_size() >= max) continue;
    v1::RequestReport* request = report->add_requests();
    request->set_request_id(key.id);
    Fill(key.attempt, request->mutable_attempt());
    request->set_handle_digest(served.handle_digest);
    request->set_decoding(true);
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
