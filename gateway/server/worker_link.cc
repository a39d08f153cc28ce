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

bool WorkerLink::Send(v1::ServeRequest message) {
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
  for (const v1::RequestEvent& event : response_.events()) {
    if (const auto sink = links_.registry_.Find(event.request_id())) {
      sink->OnWorkerEvent(event, now);
    } else {
      links_.metrics_.unknown_requests.Increment();
    }
  }
  StartRead(&response_);
}

void WorkerLink::Cancel(const Status& why) {
  {
    MutexLock lock(mu_);
    if (why_.ok()) why_ = why;
  }
  context_.TryCancel();
}

void WorkerLink::OnDone(const grpc::Status& status) {
  Status why;
  {
    MutexLock lock(mu_);
    broken_ = true;
    why = why_;
  }
  if (why.ok()) {
    why = status.ok() ? absl::UnavailableError("the worker closed its stream") : FromGrpc(status);
  }
  links_.OnBroken(*this, absl::UnavailableError(
                             absl::StrCat("worker ", worker_.name, " lost: ", why.message())));
  // May destroy this link, and with it leave the gate.
  const auto self = std::move(self_);
}

}  // namespace reprise::gateway
