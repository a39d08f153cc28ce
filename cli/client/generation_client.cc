#include "cli/client/generation_client.h"

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_split.h"
#include "cli/client/transcript.h"
#include "common/clock.h"
#include "common/grpc_status.h"
#include "common/limits.h"

namespace reprise::client {
namespace {

std::unique_ptr<v1::Generation::Stub> Connect(const std::string& address,
                                              const ClientOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(options.keepalive_ms));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, static_cast<int>(options.keepalive_timeout_ms));
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetMaxReceiveMessageSize(limits::kGrpcMessageBytesMax);
  // A broken call is resumed, not repeated; and what is never used need not see every message.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, limits::kGrpcWindowBytes);
  // Channels to one address would otherwise share one connection.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1::Generation::NewStub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

// What a broken call means for a request that was accepted: it may go on elsewhere.
bool MayResume(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::OK:  // without Finished
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::CANCELLED:  // not by us
    case grpc::StatusCode::UNKNOWN:
      return true;
    default:
      return false;
  }
}

// What a gateway may say to a resume that is worth another try.
bool IsBusy(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED;
}

}  // namespace

// One request over all its calls. Owns itself from Start to the last call's end; holders of the
// handle share it. Calls follow one another, so only what Abandon touches is locked.
class GenerationClient::Stream final : public GenerationStream,
                                       public std::enable_shared_from_this<Stream> {
 public:
  Stream(GenerationClient& client, v1::GenerateRequest request, StreamCallbacks callbacks,
         size_t stub)
      : client_(client),
        callbacks_(std::move(callbacks)),
        start_(RealClock().NowNs()),
        stub_(stub),
        transcript_(request),
        request_(std::move(request)) {}

  void Run() {
    self_ = shared_from_this();
    StartCall();
  }
  void Abandon() override {
    std::shared_ptr<Call> call;
    {
      MutexLock lock(mu_);
      abandoned_ = true;
      call = call_;
      if (backoff_ != nullptr) backoff_->Cancel();
    }
    if (call != nullptr) call->context.TryCancel();
  }

 private:
  struct Call final : public grpc::ClientReadReactor<v1::GenerateEvent> {
    Call(std::shared_ptr<Stream> s, v1::GenerateRequest r)
        : stream(std::move(s)), request(std::move(r)) {}
    void OnReadDone(bool ok) override {
      if (!ok) return;
      stream->OnEvent(*this);
      StartRead(&event);
    }
    // The context gives its channel back before the client may go: the last reference to a channel
    // must not be dropped on one of gRPC's own threads.
    void OnDone(const grpc::Status& status) override {
      const std::shared_ptr<Stream> owner = stream;
      const grpc::Status ended = status;
      owner->DropCall();
      running.reset();  // destroys this
      owner->OnCallDone(ended);
    }
    const std::shared_ptr<Stream> stream;
    const v1::GenerateRequest request;
    grpc::ClientContext context;
    v1::GenerateEvent event;
    std::shared_ptr<Call> running;  // itself, until OnDone
  };

  void StartCall() {
    auto call = std::make_shared<Call>(shared_from_this(), request_);
    call->running = call;
    {
      MutexLock lock(mu_);
      call_ = call;
      if (abandoned_) call->context.TryCancel();
    }
    client_.stubs_[stub_]->async()->Generate(&call->context, &call->request, call.get());
    call->StartRead(&call->event);
    call->StartCall();
  }

  void OnEvent(Call& call) {
    const int64_t before = transcript_.tokens();
    const auto passed = transcript_.Take(&call.event);
    if (!passed.ok()) {
      if (broken_.ok()) broken_ = passed.status();
      call.context.TryCancel();
      return;
    }
    if (transcript_.tokens() > before && tries_ > 0) {
      tries_ = 0;
      MutexLock lock(mu_);
      recovering_ = false;
    }
    if (*passed && broken_.ok() && callbacks_.on_event) callbacks_.on_event(call.event);
  }

  void DropCall() {
    MutexLock lock(mu_);
    call_ = nullptr;
  }

  void OnCallDone(const grpc::Status& status) {
    bool abandoned = false;
    bool overdue = false;
    {
      MutexLock lock(mu_);
      abandoned = abandoned_;
      overdue = overdue_;
    }
    if (!broken_.ok()) return End(broken_);
    if (transcript_.finished()) return End(FromGrpc(status));
    if (abandoned) return End(absl::CancelledError("abandoned"));
    if (overdue) return End(NotResumed(absl::UnavailableError("it did not answer")));
    if (!transcript_.accepted()) return OnNotAccepted(status);
    const bool may = MayResume(status) || (tries_ > 0 && IsBusy(status));
    if (!may) return End(FromGrpc(status));
    Resume(status);
  }

  // A gateway that is not there refused nothing: the next one is asked, each once.
  void OnNotAccepted(const grpc::Status& status) {
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE ||
        ++passed_over_ >= client_.gateways_) {
      return End(status.ok() ? absl::InternalError("the stream has no Accepted")
                             : FromGrpc(status));
    }
    stub_ = (stub_ + 1) % client_.stubs_.size();
    StartCall();
  }

  void Resume(const grpc::Status& status) {
    const ClientOptions& options = client_.options_;
    const TimeNs now = RealClock().NowNs();
    if (tries_++ == 0) {
      broke_ = now;
      backoff_ms_ = options.resume_backoff_first_ms;
      if (options.resume_tries > 0) Watch();
      if (options.resume_tries > 0 && callbacks_.on_resume) callbacks_.on_resume(FromGrpc(status));
    }
    const int64_t wait_ms = tries_ == 1 ? 0 : backoff_ms_;
    const TimeNs until = broke_ + NsFromMs(options.resume_timeout_ms);
    if (tries_ > options.resume_tries || now + NsFromMs(wait_ms) >= until) {
      const Status why = status.ok() ? absl::UnavailableError("the stream ended without Finished")
                                     : FromGrpc(status);
      return End(options.resume_tries == 0 ? why : NotResumed(why));
    }
    stub_ = (stub_ + 1) % client_.stubs_.size();
    request_ = transcript_.ResumeRequest((now - start_) / kMillisecond);
    if (wait_ms == 0) return StartCall();
    backoff_ms_ = std::min(2 * backoff_ms_, options.resume_backoff_max_ms);
    if (!Wait(wait_ms)) End(absl::CancelledError("abandoned"));
  }

  Status NotResumed(const Status& why) const {
    const ClientOptions& options = client_.options_;
    return Status(
        why.code(),
        absl::StrCat("not resumed in ", std::min(tries_, options.resume_tries), " tries (limit ",
                     options.resume_tries, ") and ", (RealClock().NowNs() - broke_) / kMillisecond,
                     " ms (limit ", options.resume_timeout_ms, "), the last: ", why.message()));
  }

  // False when abandoned.
  bool Wait(int64_t ms) {
    MutexLock lock(mu_);
    if (abandoned_) return false;
    backoff_ = std::make_unique<grpc::Alarm>();
    backoff_->Set(std::chrono::system_clock::now() + std::chrono::milliseconds(ms),
                  [this, self = self_](bool) { StartCall(); });
    return true;
  }

  // A gateway may take a resume and then find nobody to serve it.
  void Watch() {
    MutexLock lock(mu_);
    recovering_ = true;
    const int64_t break_number = ++breaks_;
    grpc::Alarm& alarm = *watches_.emplace_back(std::make_unique<grpc::Alarm>());
    alarm.Set(std::chrono::system_clock::now() +
                  std::chrono::milliseconds(client_.options_.resume_timeout_ms),
              [weak = weak_from_this(), break_number](bool) {
                if (const auto self = weak.lock()) self->OnOverdue(break_number);
              });
  }

  void OnOverdue(int64_t break_number) {
    std::shared_ptr<Call> call;
    {
      MutexLock lock(mu_);
      if (!recovering_ || breaks_ != break_number) return;
      overdue_ = true;
      call = call_;
    }
    if (call != nullptr) call->context.TryCancel();
  }

  void End(const Status& status) {
    if (callbacks_.on_done) callbacks_.on_done(status);
    const auto self = std::move(self_);
    client_.Forget(this);
  }

  GenerationClient& client_;  // not used after End
  const StreamCallbacks callbacks_;
  const TimeNs start_;
  size_t stub_;
  Transcript transcript_;
  v1::GenerateRequest request_;  // of the next call
  Status broken_;
  size_t passed_over_ = 0;
  int tries_ = 0;  // since the last token
  TimeNs broke_ = 0;
  int64_t backoff_ms_ = 0;
  std::shared_ptr<Stream> self_;
  Mutex mu_;
  std::shared_ptr<Call> call_ GUARDED_BY(mu_);
  std::unique_ptr<grpc::Alarm> backoff_ GUARDED_BY(mu_);
  bool abandoned_ GUARDED_BY(mu_) = false;
  bool recovering_ GUARDED_BY(mu_) = false;  // from a break until a token comes
  bool overdue_ GUARDED_BY(mu_) = false;
  int64_t breaks_ GUARDED_BY(mu_) = 0;
  std::vector<std::unique_ptr<grpc::Alarm>> watches_ GUARDED_BY(mu_);  // one a break
};

GenerationClient::GenerationClient(ClientOptions options) : options_(std::move(options)) {
  const std::vector<std::string> gateways = absl::StrSplit(options_.address, ',');
  gateways_ = gateways.size();
  for (int i = 0; i < std::max(1, options_.connections); ++i) {
    for (const std::string& gateway : gateways) stubs_.push_back(Connect(gateway, options_));
  }
}

GenerationClient::~GenerationClient() {
  MutexLock lock(mu_);
  // Cancelling only marks the call; OnDone comes on another thread.
  for (Stream* stream : streams_) stream->Abandon();
  while (!streams_.empty()) empty_.Wait(mu_);
}

void GenerationClient::Forget(Stream* stream) {
  MutexLock lock(mu_);
  streams_.erase(stream);
  if (streams_.empty()) empty_.NotifyAll();
}

std::shared_ptr<GenerationStream> GenerationClient::Start(v1::GenerateRequest request,
                                                          StreamCallbacks callbacks) {
  const size_t stub = next_stub_.fetch_add(1, std::memory_order_relaxed) % stubs_.size();
  auto stream = std::make_shared<Stream>(*this, std::move(request), std::move(callbacks), stub);
  {
    MutexLock lock(mu_);
    streams_.insert(stream.get());
  }
  stream->Run();
  return stream;
}

StatusOr<Completion> GenerationClient::Generate(
    const v1::GenerateRequest& request,
    const std::function<void(const v1::GenerateEvent&)>& on_event) {
  struct Waiting {
    Mutex mu;
    CondVar changed;
    Completion completion;
    Status broken;
    std::optional<Status> done GUARDED_BY(mu);
  };
  const auto waiting = std::make_shared<Waiting>();  // until the last callback has returned
  Start(request, {.on_event =
                      [waiting, &on_event](const v1::GenerateEvent& event) {
                        if (!waiting->broken.ok()) return;
                        waiting->broken = waiting->completion.Add(event);
                        if (waiting->broken.ok() && on_event) on_event(event);
                      },
                  .on_done =
                      [waiting](const Status& status) {
                        MutexLock lock(waiting->mu);
                        waiting->done = status;
                        waiting->changed.NotifyAll();
                      }});
  {
    MutexLock lock(waiting->mu);
    while (!waiting->done) waiting->changed.Wait(waiting->mu);
    RETURN_IF_ERROR(waiting->broken);
    RETURN_IF_ERROR(*waiting->done);
  }
  Completion completion = std::move(waiting->completion);
  if (!completion.finished.has_usage()) return absl::InternalError("the stream has no Finished");
  if (completion.finished.code() != 0) {
    return FromGrpc(grpc::Status(static_cast<grpc::StatusCode>(completion.finished.code()),
                                 completion.finished.message()));
  }
  return completion;
}

template <typename Request, typename Response>
Status GenerationClient::Call(grpc::Status (v1::Generation::Stub::*method)(grpc::ClientContext*,
                                                                           const Request&,
                                                                           Response*),
                              const Request& request, Response* response) {
  grpc::Status status;
  for (size_t gateway = 0; gateway < gateways_; ++gateway) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::milliseconds(options_.call_timeout_ms));
    status = (stubs_[gateway].get()->*method)(&context, request, response);
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE) break;
  }
  return FromGrpc(status);
}

// The request may run at any of them.
Status GenerationClient::Cancel(const v1::Accepted& accepted) {
  v1::CancelRequest request;
  request.set_request_id(accepted.request_id());
  request.set_resume_handle(accepted.resume_handle());
  Status refused;
  for (size_t gateway = 0; gateway < gateways_; ++gateway) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::milliseconds(options_.call_timeout_ms));
    v1::CancelResponse response;
    const Status status = FromGrpc(stubs_[gateway]->Cancel(&context, request, &response));
    if (status.ok()) return status;
    if (refused.ok() || absl::IsNotFound(refused)) refused = status;
  }
  return refused;
}

StatusOr<std::vector<int32_t>> GenerationClient::Tokenize(absl::string_view text, bool raw_text) {
  v1::TokenizeRequest request;
  request.set_text(std::string(text));
  request.set_raw_text(raw_text);
  v1::TokenizeResponse response;
  RETURN_IF_ERROR(Call(&v1::Generation::Stub::Tokenize, request, &response));
  return std::vector<int32_t>(response.ids().begin(), response.ids().end());
}

StatusOr<std::string> GenerationClient::Detokenize(const std::vector<int32_t>& ids,
                                                   bool keep_special) {
  v1::DetokenizeRequest request;
  request.mutable_ids()->Add(ids.begin(), ids.end());
  request.set_keep_special(keep_special);
  v1::DetokenizeResponse response;
  RETURN_IF_ERROR(Call(&v1::Generation::Stub::Detokenize, request, &response));
  return response.text();
}

StatusOr<std::vector<v1::Model>> GenerationClient::ListModels() {
  v1::ListModelsResponse response;
  RETURN_IF_ERROR(Call(&v1::Generation::Stub::ListModels, v1::ListModelsRequest(), &response));
  return std::vector<v1::Model>(response.models().begin(), response.models().end());
}

}  // namespace reprise::client
