#include "gateway/server/worker_link.h"

#include <utility>

#include "common/clock.h"
#include "common/grpc_status.h"
#include "common/rpc_server.h"

namespace reprise::gateway {

WorkerLink::WorkerLink(WorkerLinks& links, const v1::NodeRef& worker, uint64_t serial,
                       Gate::Holder holder)
    : links_(links),
      worker_{worker.name(), worker.incarnation()},
      serial_(serial),
      stub_(v1::Worker::NewStub(ClusterChannel(worker.grpc_address()))),
      holder_(std::move(holder)) {
  v1::ServeRequest::Hello* hello = queue_.emplace_front().mutable_hello();
  hello->set_gateway(links.self_.name);
  hello->set_gateway_incarnation(links.self_.incarnation);
}

void WorkerLink::Open() {
  self_ = shared_from_this();
  stub_->async()->Serve(&context_, this);
  // Held until the first failed read, so that other threads may start writes meanwhile.
  AddHold();
  StartRead(&response_);
  WriteNext();
  StartCall();
}

void WorkerLink::Track(const v1::ServeRequest& message, TimeNs now) {
  if (message.has_submit() || message.has_attach()) {
    const bool submit = message.has_submit();
    const v1::Attempt& attempt = submit ? message.submit().attempt() : message.attach().attempt();
    if (requests_.empty()) watch_.Begin(now);
    requests_[submit ? message.submit().request_id() : message.attach().request_id()] = {
        attempt.owner_epoch(), attempt.n()};
  }
  if (message.has_cancel()) Forget(message.cancel().request_id(), message.cancel().attempt());
  if (message.has_detach()) Forget(message.detach().request_id(), message.detach().attempt());
}

void WorkerLink::Forget(const std::string& request_id, const v1::Attempt& attempt) {
  const auto it = requests_.find(request_id);
  if (it == requests_.end() || it->second != Attempt{attempt.owner_epoch(), attempt.n()}) return;
  requests_.erase(it);
  if (requests_.empty()) watch_.End();
}

bool WorkerLink::Send(v1::ServeRequest message) {
  const bool first = message.has_submit() || message.has_attach();
  {
    MutexLock lock(mu_);
    if (broken_) return false;
    Track(message, RealClock().NowNs());
  }
  if (first) links_.Watch();
  {
    MutexLock lock(mu_);
    if (broken_) return false;
    queue_.push_back(std::move(message));
    if (writing_) return true;
    writing_ = true;
    AddHold();  // for the call below: the read may fail before it
  }
  WriteNext();
  RemoveHold();
  return true;
}

// By whoever set writing_; deque elements stay where they are while others are pushed.
void WorkerLink::WriteNext() {
  const v1::ServeRequest* message = nullptr;
  {
    MutexLock lock(mu_);
    message = &queue_.front();
  }
  StartWrite(message);
}

void WorkerLink::OnWriteDone(bool ok) {
  {
    MutexLock lock(mu_);
    reached_ = reached_ || ok;
    queue_.pop_front();
    if (!ok || broken_) queue_.clear();
    writing_ = !queue_.empty();
    if (!writing_) return;
    AddHold();
  }
  WriteNext();
  RemoveHold();
}

void WorkerLink::OnReadDone(bool ok) {
  if (!ok) {
    {
      MutexLock lock(mu_);
      broken_ = true;
    }
    RemoveHold();
    return;
  }
  const TimeNs now = RealClock().NowNs();
  {
    MutexLock lock(mu_);
    const bool heartbeat =
        response_.progress() != 0 || response_.busy() || response_.events().empty();
    watch_.OnMessage(response_.progress(), response_.busy(), heartbeat, now);
    for (const v1::RequestEvent& event : response_.events()) {
      if (event.has_done()) Forget(event.request_id(), event.attempt());
    }
  }
  if (!response_.events().empty()) Deliver(now);
  StartRead(&response_);
}

void WorkerLink::Deliver(TimeNs now) {
  // Read before any sink is found: one that is replaced meanwhile is not kept.
  const uint64_t version = links_.registry_.version();
  if (version != routed_version_) routed_.clear();
  routing_.clear();
  size_t next = 0;
  for (const v1::RequestEvent& event : response_.events()) {
    Routed routed;
    const auto expected = [&](size_t at) {
      return at < routed_.size() && routed_[at].request_id == event.request_id();
    };
    if (!expected(next) && expected(next + 1)) ++next;  // one has nothing to say this time
    if (expected(next)) {
      routed = std::move(routed_[next++]);
    } else {
      routed = {event.request_id(), links_.registry_.Find(event.request_id())};
    }
    if (routed.sink == nullptr) {
      links_.metrics_.unknown_requests.Increment();
      continue;
    }
    routed.sink->OnWorkerEvent(event, now);
    if (!event.has_done()) routing_.push_back(std::move(routed));
  }
  routed_.swap(routing_);
  routing_.clear();
  routed_version_ = version;
}

void WorkerLink::Cancel(const Status& why, Loss loss) {
  {
    MutexLock lock(mu_);
    if (why_.ok()) {
      why_ = why;
      loss_ = loss;
    }
  }
  context_.TryCancel();
}

bool WorkerLink::OnTick(TimeNs now) {
  LinkWatch::Verdict verdict = LinkWatch::Verdict::kFine;
  {
    MutexLock lock(mu_);
    if (requests_.empty()) return false;
    verdict = watch_.OnTick(now);
  }
  if (verdict == LinkWatch::Verdict::kSilent) {
    Cancel(absl::UnavailableError(
               absl::StrCat("nothing was heard of it for ", limits::kServeSilenceMs, " ms")),
           Loss::kOther);
  } else if (verdict == LinkWatch::Verdict::kStuck) {
    Cancel(absl::UnavailableError(
               absl::StrCat("its step made no progress for ", limits::kServeStuckMs, " ms")),
           Loss::kCrash);
  }
  return true;
}

void WorkerLink::OnDone(const grpc::Status& status) {
  Status why;
  Loss loss = Loss::kOther;
  {
    MutexLock lock(mu_);
    broken_ = true;
    why = why_;
    // A stream that stood and broke without a word is a process that died.
    loss = why.ok() ? (reached_ && !status.ok() ? Loss::kCrash : Loss::kOther) : loss_;
  }
  if (why.ok()) {
    why = status.ok() ? absl::UnavailableError("the worker closed its stream") : FromGrpc(status);
  }
  links_.OnBroken(
      *this,
      absl::UnavailableError(absl::StrCat("worker ", worker_.name, " lost: ", why.message())),
      loss);
  // May destroy this link, and with it leave the gate.
  const auto self = std::move(self_);
}

}  // namespace reprise::gateway
