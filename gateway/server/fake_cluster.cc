#include "gateway/server/fake_cluster.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "common/random.h"

namespace reprise::gateway {
namespace {

std::unique_ptr<RpcServer> Listen(grpc::Service* service) {
  auto server = RpcServer::Start("127.0.0.1:0", {service});
  if (!server.ok()) std::abort();  // no test can go on
  return *std::move(server);
}

}  // namespace

int32_t FakeToken(uint64_t seed, uint32_t branch, uint32_t index) {
  SplitMix64 random(seed * 31 + branch * 1'000'003 + index);
  return static_cast<int32_t>(10 + random.Below(kFakeVocab - 10));
}

FakeWorker::FakeWorker(std::string name, uint64_t incarnation)
    : name_(std::move(name)), incarnation_(incarnation), server_(Listen(this)) {}

FakeWorker::~FakeWorker() {
  Break();
  server_->Shutdown(0);
}

void FakeWorker::FallSilentAfter(int32_t tokens) {
  MutexLock lock(mu_);
  silent_after_ = tokens;
}
void FakeWorker::RefuseWith(int code, const std::string& message) {
  MutexLock lock(mu_);
  refuse_code_ = code;
  refuse_message_ = message;
}
void FakeWorker::SetTokensPerMessage(int32_t tokens) {
  MutexLock lock(mu_);
  tokens_per_message_ = tokens;
}
void FakeWorker::Break() {
  MutexLock lock(mu_);
  for (grpc::ServerContext* stream : streams_) stream->TryCancel();
}

v1::NodeRef FakeWorker::ref() const {
  v1::NodeRef ref;
  ref.set_name(name_);
  ref.set_incarnation(incarnation_);
  ref.set_grpc_address(server_->address());
  return ref;
}

v1::Submit FakeWorker::WaitForSubmit(size_t nth) {
  MutexLock lock(mu_);
  while (submits_.size() < nth) changed_.Wait(mu_);
  return submits_[nth - 1];
}
v1::ServeRequest::CancelOne FakeWorker::WaitForCancel(size_t nth) {
  MutexLock lock(mu_);
  while (cancels_.size() < nth) changed_.Wait(mu_);
  return cancels_[nth - 1];
}
size_t FakeWorker::submits() const {
  MutexLock lock(mu_);
  return submits_.size();
}

grpc::Status FakeWorker::Serve(grpc::ServerContext* context, Stream* stream) {
  {
    MutexLock lock(mu_);
    streams_.push_back(context);
  }
  v1::ServeRequest message;
  bool greeted = false;
  while (stream->Read(&message)) {
    if (message.has_hello()) greeted = true;
    if (!greeted) break;
    if (message.has_submit()) {
      {
        MutexLock lock(mu_);
        submits_.push_back(message.submit());
        changed_.NotifyAll();
      }
      Run(message.submit(), stream);
    }
    if (message.has_cancel()) {
      MutexLock lock(mu_);
      cancels_.push_back(message.cancel());
      changed_.NotifyAll();
    }
  }
  MutexLock lock(mu_);
  streams_.erase(std::find(streams_.begin(), streams_.end(), context));
  return grpc::Status::OK;
}

// Everything it will ever say about the request, at once; runs on the stream's thread.
void FakeWorker::Run(const v1::Submit& submit, Stream* stream) {
  int32_t silent_after = 0;
  int32_t per_message = 0;
  v1::ServeResponse response;
  v1::RequestEvent* event = nullptr;
  const auto fresh = [&] {
    response.Clear();
    event = response.add_events();
    event->set_request_id(submit.request_id());
    *event->mutable_attempt() = submit.attempt();
  };
  fresh();
  {
    MutexLock lock(mu_);
    silent_after = silent_after_;
    per_message = tokens_per_message_;
    if (refuse_code_ != 0) {
      event->mutable_done()->set_code(refuse_code_);
      event->mutable_done()->set_message(refuse_message_);
    }
  }
  if (event->has_done()) {
    stream->Write(response);
    return;
  }
  const v1::ResolvedSampling& sampling = submit.sampling();
  const int32_t last = std::min(sampling.max_tokens(), silent_after);
  const auto start = [&](int b) {
    return b < submit.branches_size() ? submit.branches(b).emitted_size() : 0;
  };
  int32_t lowest = last;
  for (int b = 0; b < sampling.n(); ++b) lowest = std::min(lowest, start(b));
  for (int32_t i = lowest; i < last; ++i) {
    for (int b = 0; b < sampling.n(); ++b) {
      if (i < start(b)) continue;
      v1::WorkerToken* token = event->add_tokens();
      token->set_branch(static_cast<uint32_t>(b));
      token->set_index(static_cast<uint32_t>(i));
      token->set_id(FakeToken(sampling.seed(), token->branch(), token->index()));
      token->set_logprob(-0.5f);
      for (int t = 0; t < sampling.top_logprobs(); ++t) token->add_top()->set_token(t);
      if (i + 1 == sampling.max_tokens()) {
        v1::WorkerBranchEnd* end = event->add_ended();
        end->set_branch(static_cast<uint32_t>(b));
        end->set_reason(v1::FINISH_REASON_LENGTH);
      }
    }
    event->set_watermark(submit.prompt_size() + i);
    if (i + 1 == sampling.max_tokens()) event->mutable_done()->set_cached_tokens(3);
    if ((i + 1) % per_message == 0 || i + 1 == last) {
      if (!stream->Write(response)) return;
      fresh();
    }
  }
}

FakeCoordinator::FakeCoordinator() : server_(Listen(this)) { address_ = server_->address(); }
FakeCoordinator::~FakeCoordinator() { Kill(); }

std::string FakeCoordinator::address() const { return address_; }

void FakeCoordinator::SetWorkers(std::vector<v1::NodeRef> workers) {
  MutexLock lock(mu_);
  workers_ = std::move(workers);
}
void FakeCoordinator::RefuseWith(const grpc::Status& status) {
  MutexLock lock(mu_);
  refusal_ = status;
}
void FakeCoordinator::SetState(const v1::NodeRef& worker, const std::string& state) {
  MutexLock lock(mu_);
  v1::NodeStatus& status = states_.emplace_back();
  *status.mutable_node()->mutable_ref() = worker;
  status.set_state(state);
}
void FakeCoordinator::Kill() { server_->Shutdown(0); }

std::vector<v1::PlaceRequest> FakeCoordinator::places() const {
  MutexLock lock(mu_);
  return places_;
}
void FakeCoordinator::WaitForReportOf(const std::string& request_id) {
  MutexLock lock(mu_);
  while (std::find(reported_.begin(), reported_.end(), request_id) == reported_.end()) {
    changed_.Wait(mu_);
  }
}
void FakeCoordinator::SetIncarnation(uint64_t incarnation) {
  MutexLock lock(mu_);
  incarnation_ = incarnation;
}

grpc::Status FakeCoordinator::Report(grpc::ServerContext*, const v1::ReportRequest* request,
                                     v1::ReportResponse* response) {
  MutexLock lock(mu_);
  response->set_coordinator_incarnation(incarnation_);
  response->set_report_interval_ms(20);
  for (const v1::RequestReport& report : request->requests()) {
    reported_.push_back(report.request_id());
  }
  changed_.NotifyAll();
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::Place(grpc::ServerContext*, const v1::PlaceRequest* request,
                                    v1::PlaceResponse* response) {
  MutexLock lock(mu_);
  places_.push_back(*request);
  if (!refusal_.ok()) return refusal_;
  for (const v1::NodeRef& worker : workers_) {
    const bool avoided =
        std::any_of(request->avoid().begin(), request->avoid().end(), [&](const v1::NodeRef& a) {
          return a.name() == worker.name() && a.incarnation() == worker.incarnation();
        });
    if (avoided) continue;
    response->mutable_attempt()->set_owner_epoch(1);
    response->mutable_attempt()->set_n(++attempts_[request->request_id()]);
    *response->mutable_decode() = worker;
    return grpc::Status::OK;
  }
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, "NO_WORKERS: none is left");
}

grpc::Status FakeCoordinator::GetModel(grpc::ServerContext*, const v1::GetModelRequest*,
                                       v1::ModelInfo* response) {
  response->set_name("fake");
  response->set_fingerprint(std::string(32, '\x11'));
  response->set_numerics_class(std::string(32, '\x22'));
  response->set_format_digest(std::string(32, '\x33'));
  response->set_format_text("fake format");
  response->set_block_tokens(4);
  response->set_vocab_size(kFakeVocab);
  response->set_context_tokens(kFakeContext);
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*,
                                        v1::ClusterStatus* response) {
  MutexLock lock(mu_);
  for (const v1::NodeStatus& state : states_) *response->add_nodes() = state;
  return grpc::Status::OK;
}

}  // namespace reprise::gateway
