#include "cli/client/generation_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/grpc_status.h"
#include "common/limits.h"

namespace reprise::client {
namespace {

std::unique_ptr<v1::Generation::Stub> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(limits::kGrpcMessageBytesMax);
  // Channels to one address would otherwise share one connection.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1::Generation::NewStub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

}  // namespace

Status Completion::AddToken(const v1::Token& token) {
  if (token.branch() < 0 || token.branch() >= limits::kBranchesMax) {
    return absl::InternalError(absl::StrCat("token of branch ", token.branch()));
  }
  const auto b = static_cast<size_t>(token.branch());
  if (branches.size() <= b) branches.resize(b + 1);
  Branch& branch = branches[b];
  if (static_cast<size_t>(token.index()) != branch.ids.size()) {
    return absl::InternalError(absl::StrCat("branch ", b, ": token ", token.index(),
                                            " arrived when ", branch.ids.size(), " was next"));
  }
  branch.ids.push_back(token.id());
  branch.logprobs.push_back(token.logprob());
  branch.text += token.text();
  return absl::OkStatus();
}

Status Completion::Add(const v1::GenerateEvent& event) {
  const bool first = accepted.request_id().empty();
  if (first != event.has_accepted()) {
    return absl::InternalError("the stream does not start with one Accepted event");
  }
  if (finished.has_usage()) return absl::InternalError("an event after Finished");
  switch (event.event_case()) {
    case v1::GenerateEvent::kAccepted:
      accepted = event.accepted();
      return absl::OkStatus();
    case v1::GenerateEvent::kTokens:
      for (const v1::Token& token : event.tokens().tokens()) RETURN_IF_ERROR(AddToken(token));
      return absl::OkStatus();
    case v1::GenerateEvent::kBranchFinished: {
      const v1::BranchFinished& end = event.branch_finished();
      const auto b = static_cast<size_t>(end.branch());
      if (b >= static_cast<size_t>(limits::kBranchesMax)) {
        return absl::InternalError(absl::StrCat("end of branch ", end.branch()));
      }
      if (branches.size() <= b) branches.resize(b + 1);
      if (branches[b].reason != v1::FINISH_REASON_UNSPECIFIED) {
        return absl::InternalError(absl::StrCat("branch ", b, " ended twice"));
      }
      if (static_cast<size_t>(end.tokens()) != branches[b].ids.size()) {
        return absl::InternalError(absl::StrCat("branch ", b, " ended with ", end.tokens(),
                                                " tokens, ", branches[b].ids.size(), " came"));
      }
      branches[b].reason = end.reason();
      branches[b].text += end.text();
      return absl::OkStatus();
    }
    case v1::GenerateEvent::kFinished:
      finished = event.finished();
      if (!finished.has_usage()) return absl::InternalError("Finished without usage");
      return absl::OkStatus();
    case v1::GenerateEvent::EVENT_NOT_SET:
      break;
  }
  return absl::InternalError("an event of a kind this client does not know");
}

// Owns itself from Start to OnDone; holders of the handle share it.
class GenerationClient::Stream final : public grpc::ClientReadReactor<v1::GenerateEvent>,
                                       public GenerationStream,
                                       public std::enable_shared_from_this<Stream> {
 public:
  Stream(GenerationClient& client, v1::GenerateRequest request, StreamCallbacks callbacks)
      : client_(client), request_(std::move(request)), callbacks_(std::move(callbacks)) {}

  void Run(v1::Generation::Stub& stub) {
    self_ = shared_from_this();
    stub.async()->Generate(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }
  void Abandon() override { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (callbacks_.on_event) callbacks_.on_event(event_);
    StartRead(&event_);
  }
  void OnDone(const grpc::Status& status) override {
    if (callbacks_.on_done) callbacks_.on_done(FromGrpc(status));
    const auto self = std::move(self_);
    client_.Forget(this);
  }

 private:
  GenerationClient& client_;  // not used after OnDone
  const v1::GenerateRequest request_;
  const StreamCallbacks callbacks_;
  grpc::ClientContext context_;
  v1::GenerateEvent event_;
  std::shared_ptr<Stream> self_;
};

GenerationClient::GenerationClient(ClientOptions options) : options_(std::move(options)) {
  for (int i = 0; i < std::max(1, options_.connections); ++i) {
    stubs_.push_back(Connect(options_.address));
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
  auto stream = std::make_shared<Stream>(*this, std::move(request), std::move(callbacks));
  {
    MutexLock lock(mu_);
    streams_.insert(stream.get());
  }
  stream->Run(*stubs_[next_stub_.fetch_add(1, std::memory_order_relaxed) % stubs_.size()]);
  return stream;
}

StatusOr<Completion> GenerationClient::Generate(
    const v1::GenerateRequest& request,
    const std::function<void(const v1::GenerateEvent&)>& on_event) {
  grpc::ClientContext context;
  const auto reader = stubs_[0]->Generate(&context, request);
  Completion completion;
  Status broken;
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
    broken = completion.Add(event);
    if (!broken.ok()) {
      context.TryCancel();
      break;
    }
    if (on_event) on_event(event);
  }
  const grpc::Status status = reader->Finish();
  RETURN_IF_ERROR(broken);
  RETURN_IF_ERROR(FromGrpc(status));
  if (!completion.finished.has_usage()) return absl::InternalError("the stream has no Finished");
  if (completion.finished.code() != 0) {
    return FromGrpc(grpc::Status(static_cast<grpc::StatusCode>(completion.finished.code()),
                                 completion.finished.message()));
  }
  return completion;
}

void GenerationClient::Prepare(grpc::ClientContext& context) const {
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::milliseconds(options_.call_timeout_ms));
}

Status GenerationClient::Cancel(const v1::Accepted& accepted) {
  grpc::ClientContext context;
  Prepare(context);
  v1::CancelRequest request;
  request.set_request_id(accepted.request_id());
  request.set_resume_handle(accepted.resume_handle());
  v1::CancelResponse response;
  return FromGrpc(stubs_[0]->Cancel(&context, request, &response));
}

StatusOr<std::vector<int32_t>> GenerationClient::Tokenize(absl::string_view text, bool raw_text) {
  grpc::ClientContext context;
  Prepare(context);
  v1::TokenizeRequest request;
  request.set_text(std::string(text));
  request.set_raw_text(raw_text);
  v1::TokenizeResponse response;
  RETURN_IF_ERROR(FromGrpc(stubs_[0]->Tokenize(&context, request, &response)));
  return std::vector<int32_t>(response.ids().begin(), response.ids().end());
}

StatusOr<std::string> GenerationClient::Detokenize(const std::vector<int32_t>& ids,
                                                   bool keep_special) {
  grpc::ClientContext context;
  Prepare(context);
  v1::DetokenizeRequest request;
  request.mutable_ids()->Add(ids.begin(), ids.end());
  request.set_keep_special(keep_special);
  v1::DetokenizeResponse response;
  RETURN_IF_ERROR(FromGrpc(stubs_[0]->Detokenize(&context, request, &response)));
  return response.text();
}

StatusOr<std::vector<v1::Model>> GenerationClient::ListModels() {
  grpc::ClientContext context;
  Prepare(context);
  v1::ListModelsResponse response;
  RETURN_IF_ERROR(FromGrpc(stubs_[0]->ListModels(&context, {}, &response)));
  return std::vector<v1::Model>(response.models().begin(), response.models().end());
}

}  // namespace reprise::client
