// GenerateSession, the part that carries out what its core decides.
#include <algorithm>
#include <utility>

#include "common/failpoint.h"
#include "common/log.h"
#include "gateway/server/generate_session.h"

namespace reprise::gateway {

void GenerateSession::ApplyAccept() {
  FillAccepted(facts(), buffer_.AddEvent()->mutable_accepted());
  shared_.metrics.prompt_tokens.Increment(static_cast<double>(request_.prompt.size()));
  const v1::NodeRef& worker = placed_.has_running() ? placed_.running() : placed_.decode();
  effects_.push_back([this, worker = worker.name(), prompt_tokens = request_.prompt.size(),
                      branches = request_.sampling.n(), max_tokens = request_.sampling.max_tokens(),
                      resumed = actions_.resumed.has_value()] {
    LogInfo("request_accepted", {{"request", id_},
                                 {"prompt_tokens", prompt_tokens},
                                 {"branches", branches},
                                 {"max_tokens", max_tokens},
                                 {"resumed", resumed},
                                 {"worker", worker}});
  });
}

void GenerateSession::ApplyTokens(TimeNs now) {
  if (first_token_ == 0) {
    first_token_ = now;
    if (!core_.spec().resume) {
      shared_.metrics.ttft_seconds.Observe(SecondsFromNs(now - arrived_));
    }
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
  FillBranchEnd(end, core_, out);
  if (!text_.empty()) out->set_text(text_[end.branch].Flush());
}

void GenerateSession::CountRecovery() {
  GatewayMetrics& metrics = shared_.metrics;
  if (actions_.resumed) metrics.CountResume(*actions_.resumed);
  if (actions_.placed_after_ns) {
    metrics.recovery_place_seconds.Observe(SecondsFromNs(*actions_.placed_after_ns));
  }
  if (actions_.resumed_after_ns) {
    metrics.recovery_resume_seconds.Observe(SecondsFromNs(*actions_.resumed_after_ns));
  }
}

void GenerateSession::ApplyCommands(TimeNs now) {
  if (actions_.cancel) {
    effects_.push_back([this, worker = actions_.cancel->placement.worker,
                        message = CancelMessage(id_, *actions_.cancel)]() mutable {
      Tell(worker, std::move(message));
    });
  }
  if (actions_.detach) {
    effects_.push_back([this, worker = actions_.detach->worker,
                        message = DetachMessage(id_, *actions_.detach)]() mutable {
      Failpoint("gateway.detach");
      Tell(worker, std::move(message));
    });
  }
  if (actions_.place) {
    const TimeNs left = core_.spec().deadline - now;
    effects_.push_back([this, self = shared_from_this(),
                        place = PlaceMessage(facts(), core_, *actions_.place),
                        ask = actions_.place->ask,
                        timeout_ms = std::max<int64_t>(1, left / kMillisecond)]() mutable {
      Failpoint("gateway.place");
      shared_.placements.Place(
          std::move(place), timeout_ms,
          [self = std::move(self), ask](const Status& status, v1::PlaceResponse response) {
            self->OnPlaceAnswer(ask, status, std::move(response));
          });
    });
  }
  if (actions_.attach) {
    effects_.push_back([this, worker = placed_.running(),
                        message = AttachMessage(facts(), *actions_.attach, placed_)]() mutable {
      SendFirst(worker, std::move(message));
    });
  }
  if (actions_.submit) {
    effects_.push_back(
        [this, worker = placed_.decode(),
         message = SubmitMessage(facts(), core_, *actions_.submit, placed_)]() mutable {
          SendFirst(worker, std::move(message));
        });
    KeepReplicas(placed_.stores(), &replicas_);
  }
}

void GenerateSession::ApplyFinish(const SessionEnd& finish, TimeNs now) {
  Failpoint("gateway.finish");
  ended_ = true;
  link_ = 0;
  shared_.metrics.CountRequest(finish.status);
  shared_.metrics.CountSession(core_.counters());
  if (core_.counters().violations > 0) {
    effects_.push_back([this, status = finish.status] {
      ReportBug("gateway_worker_contradiction", {{"request", id_}, {"status", status}});
    });
  }
  if (finish.accepted && !finish.goes_on) {
    for (const BranchEnd& branch : finish.branches) ApplyBranchEnd(branch);
    FillFinished(finish, core_, buffer_.AddEvent()->mutable_finished());
  } else {
    refusal_ = finish.status;
  }
  cut_off_at_ = now + shared_.slow_reader_grace_ns;
  effects_.push_back([this, finish, first_token = first_token_, now] {
    if (registered_) shared_.registry.End(id_, this);
    LogFinish(finish, first_token, now);
  });
}

void GenerateSession::LogFinish(const SessionEnd& finish, TimeNs first_token, TimeNs now) const {
  // The fields view their texts.
  const std::string code = absl::StatusCodeToString(finish.status.code());
  const LogFields fields = {{"request", id_},
                            {"code", code},
                            {"message", finish.status.message()},
                            {"tokens", finish.usage.generated_tokens},
                            {"attempts", finish.usage.attempts},
                            {"ttft_ms", first_token == 0 ? -1.0 : MsFromNs(first_token - arrived_)},
                            {"total_ms", MsFromNs(now - arrived_)}};
  if (finish.goes_on && finish.accepted) {
    LogInfo("request_left", fields);
  } else if (finish.accepted) {
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
