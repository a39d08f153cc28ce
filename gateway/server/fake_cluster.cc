#include "gateway/server/fake_cluster.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <utility>

#include "common/random.h"

namespace reprise::gateway {
namespace {

constexpr std::chrono::milliseconds kBeat{50};

std::unique_ptr<RpcServer> Listen(grpc::Service* service) {
  auto server = RpcServer::Start("127.0.0.1:0", {service});
  if (!server.ok()) std::abort();  // no test can go on
  return *std::move(server);
}

v1::RequestEvent* AddEvent(const std::string& id, const v1::Attempt& attempt,
                           v1::ServeResponse* response) {
  v1::RequestEvent* event = response->add_events();
  event->set_request_id(id);
  *event->mutable_attempt() = attempt;
  return event;
}

bool Same(const v1::NodeRef& a, const v1::NodeRef& b) {
  return a.name() == b.name() && a.incarnation() == b.incarnation();
}

}  // namespace

int32_t FakeToken(uint64_t seed, uint32_t branch, uint32_t index) {
  SplitMix64 random(seed * 31 + branch * 1'000'003 + index);
  return static_cast<int32_t>(10 + random.Below(kFakeVocab - 10));
}

FakeWorker::FakeWorker(std::string name, uint64_t incarnation)
    : name_(std::move(name)),
      incarnation_(incarnation),
      server_(Listen(this)),
      heart_("fake-heart", [this] { BeatLoop(); }) {}

FakeWorker::~FakeWorker() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  heart_.Join();
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
void FakeWorker::Break(bool forget) {
  MutexLock lock(mu_);
  if (forget) requests_.clear();
  for (const auto& stream : streams_) stream->context->TryCancel();
}
void FakeWorker::Beat(bool stuck) {
  MutexLock lock(mu_);
  beating_ = true;
  stuck_ = stuck;
  changed_.NotifyAll();
}
void FakeWorker::StopBeating() {
  MutexLock lock(mu_);
  beating_ = false;
}

void FakeWorker::BeatLoop() {
  while (true) {
    std::vector<std::shared_ptr<Stream>> streams;
    v1::ServeResponse beat;
    {
      MutexLock lock(mu_);
      while (!beating_ && !stopping_) changed_.Wait(mu_);
      if (!stopping_) changed_.WaitFor(mu_, kBeat);
      if (stopping_) return;
      if (!beating_) continue;
      if (!stuck_) ++progress_;
      beat.set_progress(progress_);
      beat.set_busy(true);
      streams = streams_;
    }
    for (const auto& stream : streams) stream->Write(beat);
  }
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
v1::Attach FakeWorker::WaitForAttach(size_t nth) {
  MutexLock lock(mu_);
  while (attaches_.size() < nth) changed_.Wait(mu_);
  return attaches_[nth - 1];
}
v1::ServeRequest::CancelOne FakeWorker::WaitForCancel(size_t nth) {
  MutexLock lock(mu_);
  while (cancels_.size() < nth) changed_.Wait(mu_);
  return cancels_[nth - 1];
}
v1::ServeRequest::Detach FakeWorker::WaitForDetach(uint64_t owner_epoch) {
  MutexLock lock(mu_);
  while (true) {
    for (const auto& detach : detaches_) {
      if (detach.attempt().owner_epoch() == owner_epoch) return detach;
    }
    changed_.Wait(mu_);
  }
}
size_t FakeWorker::submits() const {
  MutexLock lock(mu_);
  return submits_.size();
}
size_t FakeWorker::cancels() const {
  MutexLock lock(mu_);
  return cancels_.size();
}

grpc::Status FakeWorker::Serve(grpc::ServerContext* context, ServeStream* stream) {
  const auto mine = std::make_shared<Stream>();
  mine->context = context;
  mine->stream = stream;
  {
    MutexLock lock(mu_);
    streams_.push_back(mine);
  }
  v1::ServeRequest message;
  bool greeted = false;
  while (stream->Read(&message)) {
    if (message.has_hello()) greeted = true;
    if (!greeted) break;
    if (message.has_submit()) OnSubmit(message.submit(), *mine);
    if (message.has_attach()) OnAttach(message.attach(), *mine);
    MutexLock lock(mu_);
    if (message.has_cancel()) {
      requests_.erase(message.cancel().request_id());
      cancels_.push_back(message.cancel());
    }
    if (message.has_detach()) detaches_.push_back(message.detach());
    changed_.NotifyAll();
  }
  {
    MutexLock lock(mu_);
    streams_.erase(std::find(streams_.begin(), streams_.end(), mine));
  }
  // The heart may hold the stream still.
  MutexLock lock(mine->mu);
  return grpc::Status::OK;
}

void FakeWorker::OnSubmit(const v1::Submit& submit, Stream& stream) {
  v1::ServeResponse refusal;
  {
    MutexLock lock(mu_);
    submits_.push_back(submit);
    changed_.NotifyAll();
    if (refuse_code_ != 0) {
      v1::RequestEvent* event = AddEvent(submit.request_id(), submit.attempt(), &refusal);
      event->mutable_done()->set_code(refuse_code_);
      event->mutable_done()->set_message(refuse_message_);
    } else {
      requests_[submit.request_id()] = submit;
    }
  }
  if (refusal.events_size() > 0) {
    stream.Write(refusal);
  } else {
    Run(submit, stream, {});
  }
}

void FakeWorker::OnAttach(const v1::Attach& attach, Stream& stream) {
  v1::ServeResponse answer;
  v1::RequestEvent* event = AddEvent(attach.request_id(), attach.attempt(), &answer);
  v1::Submit request;
  {
    MutexLock lock(mu_);
    attaches_.push_back(attach);
    changed_.NotifyAll();
    const auto it = requests_.find(attach.request_id());
    if (it == requests_.end()) {
      event->mutable_done()->set_code(grpc::StatusCode::NOT_FOUND);
    } else if (it->second.resume_handle() != attach.resume_handle()) {
      event->mutable_done()->set_code(grpc::StatusCode::PERMISSION_DENIED);
    } else {
      *it->second.mutable_attempt() = attach.attempt();
      request = it->second;
    }
  }
  if (event->has_done()) {
    stream.Write(answer);
    return;
  }
  v1::Attached* attached = event->mutable_attached();
  *attached->mutable_prompt() = request.prompt();
  *attached->mutable_sampling() = request.sampling();
  attached->set_resume_window_ms(request.resume_window_ms());
  attached->set_deadline_ms(request.deadline_ms());
  *attached->mutable_stores() = request.stores();
  request.clear_branches();  // told from the first token on
  Run(request, stream, std::move(answer));
}

// Everything it will ever say about the request, at once, the first part together with `response`;
// runs on the stream's thread.
void FakeWorker::Run(const v1::Submit& request, Stream& stream, v1::ServeResponse response) {
  int32_t silent_after = 0;
  int32_t per_message = 0;
  {
    MutexLock lock(mu_);
    silent_after = silent_after_;
    per_message = tokens_per_message_;
  }
  if (response.events_size() == 0) AddEvent(request.request_id(), request.attempt(), &response);
  const v1::ResolvedSampling& sampling = request.sampling();
  const int32_t last = std::min(sampling.max_tokens(), silent_after);
  const auto start = [&](int b) {
    return b < request.branches_size() ? request.branches(b).emitted_size() : 0;
  };
  int32_t lowest = last;
  for (int b = 0; b < sampling.n(); ++b) lowest = std::min(lowest, start(b));
  if (lowest == last && response.events(0).has_attached()) stream.Write(response);
  for (int32_t i = lowest; i < last; ++i) {
    v1::RequestEvent* event = response.mutable_events(0);
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
    event->set_watermark(request.prompt_size() + i);
    if (i + 1 == sampling.max_tokens()) event->mutable_done()->set_cached_tokens(3);
    if ((i + 1) % per_message == 0 || i + 1 == last) {
      if (!stream.Write(response)) return;
      response.Clear();
      AddEvent(request.request_id(), request.attempt(), &response);
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
void FakeCoordinator::SetRunning(const v1::NodeRef& worker) {
  MutexLock lock(mu_);
  running_ = worker;
}
void FakeCoordinator::AddVerdict(const v1::NodeRef& worker, const std::string& reason) {
  MutexLock lock(mu_);
  v1::Verdict& verdict = verdicts_.emplace_back();
  *verdict.mutable_node() = worker;
  verdict.set_reason(reason);
}
void FakeCoordinator::SetLeaderEpoch(uint64_t epoch) {
  MutexLock lock(mu_);
  leader_epoch_ = epoch;
}
void FakeCoordinator::Kill() { server_->Shutdown(0); }

std::vector<v1::PlaceRequest> FakeCoordinator::places() const {
  MutexLock lock(mu_);
  return places_;
}
v1::RequestReport FakeCoordinator::WaitForReportOf(const std::string& request_id) {
  MutexLock lock(mu_);
  while (reported_.count(request_id) == 0) changed_.Wait(mu_);
  return reported_[request_id];
}
void FakeCoordinator::WaitForReports(size_t more) {
  MutexLock lock(mu_);
  const size_t want = reports_ + more;
  while (reports_ < want) changed_.Wait(mu_);
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
  response->set_leader_epoch(leader_epoch_);
  response->set_verdicts_version(verdicts_.size());
  for (size_t i = request->verdicts_version(); i < verdicts_.size(); ++i) {
    *response->add_verdicts() = verdicts_[i];
  }
  for (const v1::RequestReport& report : request->requests()) {
    reported_[report.request_id()] = report;
  }
  ++reports_;
  changed_.NotifyAll();
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::Place(grpc::ServerContext*, const v1::PlaceRequest* request,
                                    v1::PlaceResponse* response) {
  MutexLock lock(mu_);
  places_.push_back(*request);
  if (!refusal_.ok()) return refusal_;
  v1::Attempt& attempt = attempts_[request->request_id()];
  response->set_leader_epoch(leader_epoch_);
  if (request->attach() && !running_.name().empty()) {
    attempt.set_owner_epoch(attempt.owner_epoch() + 1);
    attempt.set_n(1);
    *response->mutable_attempt() = attempt;
    *response->mutable_running() = running_;
    return grpc::Status::OK;
  }
  for (const v1::NodeRef& worker : workers_) {
    const bool avoided = std::any_of(request->avoid().begin(), request->avoid().end(),
                                     [&](const v1::NodeRef& a) { return Same(a, worker); });
    if (avoided) continue;
    if (request->previous().owner_epoch() > attempt.owner_epoch()) attempt = request->previous();
    if (attempt.owner_epoch() == 0 || request->attach()) {
      attempt.set_owner_epoch(attempt.owner_epoch() + 1);
      attempt.set_n(0);
    }
    attempt.set_n(attempt.n() + 1);
    *response->mutable_attempt() = attempt;
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

}  // namespace reprise::gateway
