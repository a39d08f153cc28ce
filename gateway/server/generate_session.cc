#include "gateway/server/generate_session.h"

#include <algorithm>
#include <utility>

#include "common/grpc_status.h"
#include "common/log.h"
#include "common/random.h"
#include "gateway/server/worker_link.h"

namespace reprise::gateway {
namespace {

std::string DrawHandle() {
  const auto bytes = RandomBytes16();
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Attempt FromProto(const v1::Attempt& attempt) { return {attempt.owner_epoch(), attempt.n()}; }

void ToProto(const Attempt& attempt, v1::Attempt* out) {
  out->set_owner_epoch(attempt.owner_epoch);
  out->set_n(attempt.n);
}

SessionSpec MakeSpec(const ValidatedRequest& request, const ModelSnapshot& model,
                     int32_t attempts_max, TimeNs arrived) {
  const v1::ResolvedSampling& sampling = request.sampling;
  SessionSpec spec;
  spec.n = sampling.n();
  spec.prompt_tokens = static_cast<int32_t>(request.prompt.size());
  spec.vocab_size = model.served.vocab_size;
  spec.max_tokens = sampling.max_tokens();
  spec.stop_ids.assign(sampling.stop_ids().begin(), sampling.stop_ids().end());
  spec.eos_ids.assign(sampling.eos_ids().begin(), sampling.eos_ids().end());
  spec.deadline = arrived + NsFromMs(request.deadline_ms);
  spec.attempts_max = attempts_max;
  spec.jitter_seed = RandomU64();
  return spec;
}

v1::FinishReason ToProto(EndReason reason) { return static_cast<v1::FinishReason>(reason); }

Status WorkerStatus(const v1::WorkerDone& done) {
  if (done.code() == 0) return absl::OkStatus();
  return FromGrpc(grpc::Status(static_cast<grpc::StatusCode>(done.code()), done.message()));
}

}  // namespace

GenerateSession::GenerateSession(const SessionContext& shared, grpc::CallbackServerContext* call,
                                 ValidatedRequest request,
                                 std::shared_ptr<const ModelSnapshot> model, TimeNs arrived)
    : shared_(shared),
      call_(call),
      request_(std::move(request)),
      model_(std::move(model)),
      arrived_(arrived),
      handle_(DrawHandle()),
      timer_key_(shared.timers.NewKey()),
      core_(MakeSpec(request_, *model_, shared.attempts_max, arrived)),
      branch_reported_(static_cast<size_t>(request_.sampling.n())) {
  if (shared_.tokenizer == nullptr) return;
  // Generated text continues the prompt's.
  const Detokenizer::Options options{.skip_special = true, .at_text_start = false};
  text_.reserve(branch_reported_.size());
  for (size_t b = 0; b < branch_reported_.size(); ++b) {
    text_.emplace_back(*shared_.tokenizer, options);
  }
}

grpc::ServerWriteReactor<v1::GenerateEvent>* GenerateSession::Start(
    const SessionContext& shared, grpc::CallbackServerContext* call, ValidatedRequest request,
    std::shared_ptr<const ModelSnapshot> model, TimeNs arrived) {
  auto session = std::make_shared<GenerateSession>(shared, call, std::move(request),
                                                   std::move(model), arrived);
  session->self_ = session;
  const Status inserted =
      shared.registry.Insert(session->request_.request_id, session->handle_, session);
  session->registered_ = inserted.ok();
  session->Handle(arrived, [&](SessionCore& core, Actions& actions) {
    if (inserted.ok()) {
      core.Start(RealClock().NowNs(), actions);
    } else {
      core.OnAbort(inserted, actions);
    }
  });
  return session.get();
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
  if (actions_.accept) ApplyAccept();
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
    closed_ = ended_ && buffer_.empty();
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
  WorkerDone done;
  if (event.has_done()) done = {WorkerStatus(event.done()), event.done().cached_tokens()};
  Outcome outcome;
  {
    MutexLock lock(mu_);
    event_ = &event;
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
                          .done = event.has_done() ? &done : nullptr},
                         now, actions_);
    outcome = Apply(now);
    event_ = nullptr;
  }
  Carry(outcome);
}

void GenerateSession::OnPlaceAnswer(uint64_t ask, const Status& status,
                                    v1::PlaceResponse response) {
  const TimeNs now = RealClock().NowNs();
  Status refused = status;
  if (status.ok() && (!response.has_attempt() || !response.has_decode())) {
    refused = absl::InternalError("the coordinator's placement names no attempt or no worker");
  }
  Outcome outcome;
  {
    MutexLock lock(mu_);
    actions_.Clear();
    if (refused.ok()) {
      placed_.Swap(&response);
      core_.OnPlaced(ask,
                     {.attempt = attempt(),
                      .worker = {placed_.decode().name(), placed_.decode().incarnation()}},
                     now, actions_);
    } else {
      core_.OnPlaceRefused(ask, {refused, RetryAfterMs(refused)}, now, actions_);
    }
    outcome = Apply(now);
  }
  Carry(outcome);
}

void GenerateSession::OnLinkLost(uint64_t link, const Status& status) {
  const TimeNs now = RealClock().NowNs();
  Outcome outcome;
  {
    MutexLock lock(mu_);
    if (link_ != link) return;
    link_ = 0;
    actions_.Clear();
    core_.OnWorkerLost(attempt(), status, now, actions_);
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

std::optional<Attempt> GenerateSession::running_attempt() {
  MutexLock lock(mu_);
  if (core_.state() != SessionCore::State::kStreaming) return std::nullopt;
  return attempt();
}

Attempt GenerateSession::attempt() const { return FromProto(placed_.attempt()); }

v1::PlaceRequest GenerateSession::MakePlace(const AskPlacement& ask) {
  v1::PlaceRequest place;
  place.set_request_id(request_.request_id);
  if (ask.previous) ToProto(*ask.previous, place.mutable_previous());
  place.set_format_digest(model_->info.format_digest());
  const auto branches = core_.branches();
  const BranchState& longest = *std::max_element(
      branches.begin(), branches.end(),
      [](const BranchState& a, const BranchState& b) { return a.tokens.size() < b.tokens.size(); });
  std::vector<int32_t> tokens = request_.prompt;
  tokens.insert(tokens.end(), longest.tokens.begin(), longest.tokens.end());
  place.set_block_ids(kv::PackIds(kv::ChainIds(model_->chain, tokens)));
  place.set_prompt_tokens(static_cast<int32_t>(request_.prompt.size()));
  place.set_emitted_tokens(ask.emitted_tokens);
  place.set_max_tokens(request_.sampling.max_tokens());
  place.set_branches(request_.sampling.n());
  for (const NodeKey& node : core_.avoid()) {
    v1::NodeRef* avoid = place.add_avoid();
    avoid->set_name(node.name);
    avoid->set_incarnation(node.incarnation);
  }
  return place;
}

v1::ServeRequest GenerateSession::MakeSubmit(const SubmitAttempt& submit) {
  v1::ServeRequest message;
  v1::Submit* out = message.mutable_submit();
  out->set_request_id(request_.request_id);
  ToProto(submit.placement.attempt, out->mutable_attempt());
  out->set_worker_incarnation(submit.placement.worker.incarnation);
  out->mutable_prompt()->Add(request_.prompt.begin(), request_.prompt.end());
  *out->mutable_sampling() = request_.sampling;
  if (core_.attempts() > 1) {
    for (size_t b = 0; b < core_.branches().size(); ++b) {
      const BranchState& branch = core_.branches()[b];
      v1::BranchTokens* emitted = out->add_branches();
      emitted->set_branch(static_cast<int32_t>(b));
      emitted->mutable_emitted()->Add(branch.tokens.begin(), branch.tokens.end());
      emitted->set_finished(branch.ended());
    }
  }
  if (placed_.has_prefill()) *out->mutable_prefill() = placed_.prefill();
  *out->mutable_sources() = placed_.sources();
  *out->mutable_stores() = placed_.stores();
  out->set_deadline_ms(submit.remaining_ms);
  return message;
}

void GenerateSession::SendSubmit(const v1::NodeRef& worker, v1::ServeRequest message) {
  const auto link = shared_.links.Get(worker);
  const uint64_t serial = link == nullptr ? UINT64_MAX : link->serial();
  {
    // Before the message leaves, so that no loss of the link goes unheard.
    MutexLock lock(mu_);
    if (!ended_) link_ = serial;
  }
  if (link == nullptr || !link->Send(std::move(message))) {
    OnLinkLost(serial, absl::UnavailableError("the stream to the worker is broken"));
  }
}

void GenerateSession::ApplyAccept() {
  v1::Accepted* accepted = buffer_.AddEvent()->mutable_accepted();
  accepted->set_request_id(request_.request_id);
  accepted->set_seed(request_.sampling.seed());
  accepted->set_resume_handle(handle_);
  accepted->set_prompt_tokens(static_cast<int32_t>(request_.prompt.size()));
  shared_.metrics.prompt_tokens.Increment(static_cast<double>(request_.prompt.size()));
  effects_.push_back([this, worker = placed_.decode().name()] {
    LogInfo("request_accepted", {{"request", request_.request_id},
                                 {"prompt_tokens", request_.prompt.size()},
                                 {"branches", request_.sampling.n()},
                                 {"max_tokens", request_.sampling.max_tokens()},
                                 {"worker", worker}});
  });
}

void GenerateSession::ApplyTokens(TimeNs now) {
  if (first_token_ == 0) {
    first_token_ = now;
    shared_.metrics.ttft_seconds.Observe(SecondsFromNs(now - arrived_));
  } else {
    shared_.metrics.itl_seconds.Observe(SecondsFromNs(now - last_tokens_));
  }
  last_tokens_ = now;
  shared_.metrics.generated_tokens.Increment(static_cast<double>(actions_.deliver.size()));
  for (const TokenEvent& token : actions_.deliver) {
    std::string text = text_.empty() ? std::string() : text_[token.branch].Push(token.id);
    const auto& top = event_->tokens(static_cast<int>(token.source)).top();
    v1::Token* out =
        buffer_.AddToken(std::move(text), actions_.watermark, static_cast<size_t>(top.size()));
    out->set_branch(static_cast<int32_t>(token.branch));
    out->set_index(static_cast<int32_t>(token.index));
    out->set_id(token.id);
    out->set_logprob(token.logprob);
    if (!top.empty()) *out->mutable_top() = top;
  }
  if (buffer_.bytes() <= shared_.stream_buffer_bytes_max || gone_) return;
  shared_.metrics.slow_readers.Increment();
  core_.OnAbort(absl::ResourceExhaustedError(absl::StrCat(
                    "the client reads too slowly: ", buffer_.bytes(),
                    " bytes of unread output, the limit is ", shared_.stream_buffer_bytes_max)),
                actions_);
}

void GenerateSession::ApplyBranchEnd(const BranchEnd& end) {
  if (branch_reported_[end.branch]) return;
  branch_reported_[end.branch] = true;
  v1::BranchFinished* out = buffer_.AddEvent()->mutable_branch_finished();
  out->set_branch(static_cast<int32_t>(end.branch));
  out->set_reason(ToProto(end.reason));
  out->set_tokens(static_cast<int32_t>(core_.branches()[end.branch].tokens.size()));
  if (!text_.empty()) out->set_text(text_[end.branch].Flush());
}

void GenerateSession::ApplyCommands(TimeNs now) {
  if (actions_.cancel) {
    v1::ServeRequest message;
    message.mutable_cancel()->set_request_id(request_.request_id);
    ToProto(actions_.cancel->placement.attempt, message.mutable_cancel()->mutable_attempt());
    message.mutable_cancel()->set_deadline(actions_.cancel->deadline);
    effects_.push_back(
        [this, worker = actions_.cancel->placement.worker, message = std::move(message)]() mutable {
          // Without a link the worker has lost us and reclaims by itself.
          if (const auto link = shared_.links.Find(worker)) link->Send(std::move(message));
        });
  }
  if (actions_.place) {
    const TimeNs left = core_.spec().deadline - now;
    effects_.push_back([this, self = shared_from_this(), place = MakePlace(*actions_.place),
                        ask = actions_.place->ask,
                        timeout_ms = std::max<int64_t>(1, left / kMillisecond)]() mutable {
      shared_.coordinator.Place(
          std::move(place), timeout_ms,
          [self = std::move(self), ask](const Status& status, v1::PlaceResponse response) {
            self->OnPlaceAnswer(ask, status, std::move(response));
          });
    });
  }
  if (actions_.submit) {
    effects_.push_back(
        [this, worker = placed_.decode(), message = MakeSubmit(*actions_.submit)]() mutable {
          SendSubmit(worker, std::move(message));
        });
  }
}

void GenerateSession::ApplyFinish(const SessionEnd& finish, TimeNs now) {
  ended_ = true;
  link_ = 0;
  shared_.metrics.CountRequest(finish.status);
  shared_.metrics.CountSession(core_.counters());
  if (core_.counters().violations > 0) {
    effects_.push_back([this, status = finish.status] {
      ReportBug("gateway_worker_contradiction",
                {{"request", request_.request_id}, {"status", status}});
    });
  }
  if (finish.accepted) {
    for (const BranchEnd& branch : finish.branches) ApplyBranchEnd(branch);
    v1::Finished* out = buffer_.AddEvent()->mutable_finished();
    out->mutable_usage()->set_prompt_tokens(finish.usage.prompt_tokens);
    out->mutable_usage()->set_cached_tokens(finish.usage.cached_tokens);
    out->mutable_usage()->set_generated_tokens(finish.usage.generated_tokens);
    out->mutable_usage()->set_attempts(finish.usage.attempts);
    for (const BranchEnd& branch : finish.branches) {
      v1::BranchFinished* b = out->add_branches();
      b->set_branch(static_cast<int32_t>(branch.branch));
      b->set_reason(ToProto(branch.reason));
      b->set_tokens(static_cast<int32_t>(core_.branches()[branch.branch].tokens.size()));
    }
    out->set_code(static_cast<int32_t>(finish.status.code()));
    out->set_message(std::string(finish.status.message()));
  } else {
    refusal_ = finish.status;
  }
  cut_off_at_ = now + shared_.slow_reader_grace_ns;
  effects_.push_back([this, finish, first_token = first_token_, now] {
    if (registered_) shared_.registry.End(request_.request_id);
    LogFinish(finish, first_token, now);
  });
}

void GenerateSession::LogFinish(const SessionEnd& finish, TimeNs first_token, TimeNs now) {
  // The fields view their texts.
  const std::string code = absl::StatusCodeToString(finish.status.code());
  const LogFields fields = {{"request", request_.request_id},
                            {"code", code},
                            {"message", finish.status.message()},
                            {"tokens", finish.usage.generated_tokens},
                            {"attempts", finish.usage.attempts},
                            {"ttft_ms", first_token == 0 ? -1.0 : MsFromNs(first_token - arrived_)},
                            {"total_ms", MsFromNs(now - arrived_)}};
  if (finish.accepted) {
    LogInfo("request_finished", fields);
  } else {
    LogDebug("request_refused", fields);  // counted; a storm of them must not fill the log
  }
}

void GenerateSession::ApplyTimer() {
  const TimeNs at = done_ ? TimerQueue::kNone : ended_ ? cut_off_at_ : core_.next_wake();
  if (at == timer_at_) return;
  effects_.push_back([this, from = timer_at_, at] {
    shared_.timers.Move(timer_key_, from, at, weak_from_this());
  });
  timer_at_ = at;
}

}  // namespace reprise::gateway
