#include "gateway/server/generate_session.h"

#include <algorithm>
#include <utility>

#include "common/failpoint.h"
#include "common/grpc_status.h"
#include "gateway/server/worker_link.h"

namespace reprise::gateway {

GenerateSession::GenerateSession(const SessionContext& shared, grpc::CallbackServerContext* call,
                                 ValidatedRequest request,
                                 std::shared_ptr<const ModelSnapshot> model, TimeNs arrived)
    : shared_(shared),
      call_(call),
      model_(std::move(model)),
      arrived_(arrived),
      id_(request.request_id),
      handle_(request.resume ? request.resume_handle : DrawHandle()),
      timer_key_(shared.timers.NewKey()),
      request_(std::move(request)),
      core_(MakeSpec(request_, *model_, shared.attempts_max, arrived)) {
  PrepareBranches(core_.branches().size());
}

void GenerateSession::PrepareBranches(size_t branches) {
  branch_reported_.assign(branches, false);
  text_.clear();
  if (shared_.tokenizer == nullptr) return;
  // Generated text continues the prompt's.
  const Detokenizer::Options options{.skip_special = true, .at_text_start = false};
  text_.reserve(branches);
  for (size_t b = 0; b < branches; ++b) text_.emplace_back(*shared_.tokenizer, options);
}

grpc::ServerWriteReactor<v1::GenerateEvent>* GenerateSession::Start(
    const SessionContext& shared, grpc::CallbackServerContext* call, ValidatedRequest request,
    std::shared_ptr<const ModelSnapshot> model, TimeNs arrived) {
  auto session = std::make_shared<GenerateSession>(shared, call, std::move(request),
                                                   std::move(model), arrived);
  session->self_ = session;
  const Status registered = session->Register();
  session->registered_ = registered.ok();
  session->Handle(arrived, [&](SessionCore& core, Actions& actions) {
    if (registered.ok()) {
      core.Start(RealClock().NowNs(), actions);
    } else {
      core.OnAbort(registered, actions);
    }
  });
  return session.get();
}

Status GenerateSession::Register() {
  bool resume = false;
  {
    MutexLock lock(mu_);
    resume = request_.resume;
  }
  if (!resume) return shared_.registry.Insert(id_, handle_, self_);
  ASSIGN_OR_RETURN(const auto before, shared_.registry.TakeOver(id_, handle_, self_));
  // Its client came back to us before we noticed that it had gone.
  if (before != nullptr) {
    before->Abort(absl::AbortedError("the request was resumed by another stream"));
  }
  return absl::OkStatus();
}

template <typename Event>
void GenerateSession::Handle(TimeNs now, Event&& event) {
  Outcome outcome;
  {
    MutexLock lock(mu_);
    actions_.Clear();
    event(core_, actions_);
    outcome = Apply(now);
  }
  Carry(outcome);
}

GenerateSession::Outcome GenerateSession::Apply(TimeNs now) {
  CountRecovery();
  if (actions_.accept) ApplyAccept();
  for (const TokenEvent& token : actions_.known) {
    if (!text_.empty()) (void)text_[token.branch].Push(token.id);
  }
  if (!actions_.deliver.empty()) ApplyTokens(now);
  for (const BranchEnd& end : actions_.branches_ended) ApplyBranchEnd(end);
  ApplyCommands(now);
  if (actions_.finish) ApplyFinish(*actions_.finish, now);
  ApplyTimer();
  return {.step = ClaimWrite(), .run_effects = !effects_.empty() && !effects_running_};
}

void GenerateSession::Carry(const Outcome& outcome) {
  Perform(outcome.step);
  if (outcome.run_effects) RunEffects();
}

GenerateSession::WriteStep GenerateSession::ClaimWrite() {
  if (write_running_ || closed_) return WriteStep::kNone;
  if (!gone_ && buffer_.Take(&writing_)) {
    write_running_ = true;
    closed_ = ended_ && buffer_.empty() && refusal_.ok();
    return closed_ ? WriteStep::kWriteAndFinish : WriteStep::kWrite;
  }
  if (!ended_) return WriteStep::kNone;
  closed_ = true;
  return WriteStep::kFinish;
}

void GenerateSession::Perform(WriteStep step) {
  switch (step) {
    case WriteStep::kNone:
      return;
    case WriteStep::kWrite:
      StartWrite(&writing_);
      return;
    case WriteStep::kWriteAndFinish:
      StartWriteAndFinish(&writing_, grpc::WriteOptions(), grpc::Status::OK);
      return;
    case WriteStep::kFinish: {
      Status status;
      {
        MutexLock lock(mu_);
        status = gone_ ? absl::CancelledError("the client closed its stream") : refusal_;
      }
      Finish(ToGrpc(status));
      return;
    }
  }
}

void GenerateSession::RunEffects() {
  bool mine = false;
  while (true) {
    Effect effect;
    {
      MutexLock lock(mu_);
      if (!mine && effects_running_) return;
      mine = true;
      effects_running_ = !effects_.empty();
      if (effects_.empty()) return;
      effect = std::move(effects_.front());
      effects_.pop_front();
    }
    effect();
  }
}

void GenerateSession::OnWriteDone(bool ok) {
  Outcome outcome;
  {
    MutexLock lock(mu_);
    write_running_ = false;
    actions_.Clear();
    if (!ok) {
      gone_ = true;
      core_.OnClientGone(actions_);
    }
    outcome = Apply(ok ? 0 : RealClock().NowNs());
  }
  Carry(outcome);
}

void GenerateSession::OnCancel() {
  Outcome outcome;
  {
    MutexLock lock(mu_);
    gone_ = true;
    actions_.Clear();
    core_.OnClientGone(actions_);
    outcome = Apply(RealClock().NowNs());
  }
  Carry(outcome);
}

void GenerateSession::OnDone() {
  // Kept until the end of this call; others may still bring news.
  const auto self = std::move(self_);
  Outcome outcome;
  {
    MutexLock lock(mu_);
    done_ = true;
    actions_.Clear();
    outcome = Apply(0);
  }
  Carry(outcome);
  shared_.metrics.active_streams.Add(-1);
  shared_.slots.Leave();
}

void GenerateSession::OnWorkerEvent(const v1::RequestEvent& event, TimeNs now) {
  if (event.tokens_size() > 0) Failpoint("gateway.token");
  WorkerDone done;
  if (event.has_done()) done = {StatusOf(event.done()), event.done().cached_tokens()};
  AttachedInfo attached;
  Outcome outcome;
  {
    MutexLock lock(mu_);
    event_ = &event;
    if (event.has_attached()) attached = ReadAttached(event.attached(), request_);
    tokens_scratch_.clear();
    for (int i = 0; i < event.tokens_size(); ++i) {
      const v1::WorkerToken& token = event.tokens(i);
      tokens_scratch_.push_back(
          {token.branch(), token.index(), token.id(), token.logprob(), static_cast<uint32_t>(i)});
    }
    ended_scratch_.clear();
    for (const v1::WorkerBranchEnd& end : event.ended()) {
      ended_scratch_.push_back({end.branch(), static_cast<EndReason>(end.reason())});
    }
    actions_.Clear();
    core_.OnWorkerEvents({.attempt = FromProto(event.attempt()),
                          .tokens = tokens_scratch_,
                          .ended = ended_scratch_,
                          .watermark = event.watermark(),
                          .done = event.has_done() ? &done : nullptr,
                          .attached = event.has_attached() ? &attached : nullptr},
                         now, actions_);
    if (actions_.resumed == Resumed::kAttach) AdoptAttached(event.attached());
    if (event.stores_size() > 0 && FromProto(event.attempt()) == attempt()) {
      replicas_ = event.stores();
    }
    outcome = Apply(now);
    event_ = nullptr;
  }
  Carry(outcome);
}

// The request as it runs, whatever defaults this gateway would have filled in.
void GenerateSession::AdoptAttached(const v1::Attached& attached) {
  request_.has_input = true;
  request_.prompt.assign(attached.prompt().begin(), attached.prompt().end());
  request_.sampling = attached.sampling();
  request_.resume_window_ms = attached.resume_window_ms();
  replicas_ = attached.stores();
  PrepareBranches(core_.branches().size());
}

void GenerateSession::OnPlaceAnswer(uint64_t ask, const Status& status,
                                    v1::PlaceResponse response) {
  const TimeNs now = RealClock().NowNs();
  Status refused = status;
  if (status.ok() &&
      (!response.has_attempt() || (!response.has_decode() && !response.has_running()))) {
    refused = absl::InternalError("the coordinator's placement names no attempt or no worker");
  }
  Outcome outcome;
  {
    MutexLock lock(mu_);
    actions_.Clear();
    if (refused.ok()) {
      placed_.Swap(&response);
      const v1::NodeRef& worker = placed_.has_running() ? placed_.running() : placed_.decode();
      core_.OnPlaced(ask,
                     {.attempt = attempt(),
                      .worker = {worker.name(), worker.incarnation()},
                      .running = placed_.has_running()},
                     now, actions_);
    } else {
      core_.OnPlaceRefused(ask, {refused, RetryAfterMs(refused)}, now, actions_);
    }
    outcome = Apply(now);
  }
  Carry(outcome);
}

void GenerateSession::OnLinkLost(uint64_t link, const Status& status, Loss loss) {
  const TimeNs now = RealClock().NowNs();
  Outcome outcome;
  {
    MutexLock lock(mu_);
    if (link_ != link) return;
    link_ = 0;
    actions_.Clear();
    core_.OnWorkerLost(attempt(), status, now, actions_, loss);
    outcome = Apply(now);
  }
  Carry(outcome);
}

void GenerateSession::CancelByClient() {
  Handle(RealClock().NowNs(),
         [](SessionCore& core, Actions& actions) { core.OnClientCancel(actions); });
}

void GenerateSession::Abort(const Status& status) {
  Handle(RealClock().NowNs(),
         [&](SessionCore& core, Actions& actions) { core.OnAbort(status, actions); });
}

void GenerateSession::OnTimer(TimeNs now) {
  {
    MutexLock lock(mu_);
    // gRPC's context lives until OnDone, which sets done_.
    if (ended_ && !done_ && now >= cut_off_at_) call_->TryCancel();
  }
  Handle(now, [now](SessionCore& core, Actions& actions) { core.OnTick(now, actions); });
}

std::optional<v1::RequestReport> GenerateSession::report() {
  MutexLock lock(mu_);
  if (!core_.at_worker()) return std::nullopt;
  v1::RequestReport report;
  report.set_request_id(id_);
  ToProto(attempt(), report.mutable_attempt());
  if (core_.spec().resumable) report.set_handle_digest(HandleDigest(handle_));
  report.set_crashes(core_.crashes());
  return report;
}

Attempt GenerateSession::attempt() const { return FromProto(placed_.attempt()); }

void GenerateSession::SendFirst(const v1::NodeRef& worker, v1::ServeRequest message) {
  Failpoint(message.has_attach() ? "gateway.attach" : "gateway.submit");
  const auto link = shared_.links.Get(worker);
  const uint64_t serial = link == nullptr ? UINT64_MAX : link->serial();
  {
    // Before the message leaves, so that no loss of the link goes unheard.
    MutexLock lock(mu_);
    if (!ended_) link_ = serial;
  }
  if (link == nullptr || !link->Send(std::move(message))) {
    OnLinkLost(serial, absl::UnavailableError("the stream to the worker is broken"), Loss::kOther);
  }
}

// Without a link the worker has lost us and knows what to do.
void GenerateSession::Tell(const NodeKey& worker, v1::ServeRequest message) {
  if (const auto link = shared_.links.Find(worker)) link->Send(std::move(message));
}

}  // namespace reprise::gateway
