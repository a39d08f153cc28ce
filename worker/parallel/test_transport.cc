#include "worker/parallel/test_transport.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace reprise::parallel {

DrivenNetwork::DrivenNetwork() {
  thread_ = Thread("network", [this] { Run(); });
}

DrivenNetwork::~DrivenNetwork() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.Join();
}

void DrivenNetwork::Post(std::function<void()> function) {
  MutexLock lock(mu_);
  posted_.push_back(std::move(function));
  changed_.NotifyAll();
}

void DrivenNetwork::RunAndWait(const std::function<void()>& function) {
  Mutex mu;
  CondVar changed;
  bool ran = false;
  Post([&] {
    function();
    MutexLock lock(mu);
    ran = true;
    changed.NotifyAll();
  });
  MutexLock lock(mu);
  while (!ran) changed.Wait(mu);
}

void DrivenNetwork::WakeAt(TimeNs at_ns) { wake_at_ns_ = std::min(wake_at_ns_, at_ns); }

void DrivenNetwork::Run() {
  for (;;) {
    std::vector<std::function<void()>> functions;
    {
      MutexLock lock(mu_);
      while (posted_.empty()) {
        const TimeNs left_ns = wake_at_ns_ - RealClock().NowNs();
        if (stopping_) return;
        if (left_ns <= 0) break;
        changed_.WaitFor(mu_, std::chrono::nanoseconds(std::min(left_ns, kMinute)));
      }
      functions.swap(posted_);
    }
    wake_at_ns_ = INT64_MAX;
    for (const auto& function : functions) function();
    network_.RunUntilIdle();
  }
}

TestTransport::TestTransport(DrivenNetwork* network) : network_(network) {
  network_->RunAndWait([this] { inner_ = network_->network().NewTransport(); });
}

TestTransport::~TestTransport() {
  Stop([] { return true; });
  if (network_ != nullptr) network_->RunAndWait([this] { inner_.reset(); });
}

void TestTransport::Start(kv::TransportHandler* handler) {
  handler_ = handler;
  if (network_ == nullptr) return inner_->Start(this);
  network_->RunAndWait([this] { inner_->Start(this); });
}

void TestTransport::Stop(std::function<bool()> quiet) {
  if (network_ == nullptr) return inner_->Stop(std::move(quiet));
  network_->RunAndWait([&] {
    if (!stopped_) inner_->Stop(quiet);
    stopped_ = true;
  });
}

void TestTransport::Post(std::function<void()> function) {
  if (network_ == nullptr) return inner_->Post(std::move(function));
  network_->Post([this, function = std::move(function)]() mutable {
    if (!stopped_) inner_->Post(std::move(function));
  });
}

// ---- Death. ----

void TestTransport::Kill() {
  Post([this] { Die(); });
}

void TestTransport::Die() {
  dead_ = true;
  for (const kv::EndpointId endpoint : std::exchange(open_, {})) {
    inner_->Close(endpoint);
    handler_->OnFailed(endpoint, absl::UnavailableError("this process was killed"));
  }
}

bool TestTransport::Dying() {
  if (!dead_ && left_.load() != INT32_MAX && left_.fetch_sub(1) <= 0) {
    dead_ = true;
    Kill();
  }
  return dead_;
}

// ---- Towards the network. ----

StatusOr<kv::EndpointId> TestTransport::Connect(const std::string& host, int port) {
  if (dead_) return absl::UnavailableError("this process was killed");
  ASSIGN_OR_RETURN(const kv::EndpointId endpoint, inner_->Connect(host, port));
  open_.insert(endpoint);
  return endpoint;
}

void TestTransport::Send(kv::EndpointId endpoint, std::string message) {
  if (!Dying()) inner_->Send(endpoint, std::move(message));
}

void TestTransport::SendBulk(kv::EndpointId endpoint, const kv::BulkHeader& header,
                             std::span<const uint8_t> payload, kv::Completion done) {
  if (!Dying()) return inner_->SendBulk(endpoint, header, payload, std::move(done));
  inner_->Post([done = std::move(done)] { done(absl::CancelledError("killed")); });
}

void TestTransport::Close(kv::EndpointId endpoint) {
  open_.erase(endpoint);
  inner_->Close(endpoint);
}

// ---- From the network. ----

void TestTransport::OnAccepted(kv::EndpointId endpoint) {
  if (dead_) return inner_->Close(endpoint);
  open_.insert(endpoint);
  handler_->OnAccepted(endpoint);
}

void TestTransport::OnMessage(kv::EndpointId endpoint, std::span<const uint8_t> message) {
  if (!dead_) handler_->OnMessage(endpoint, message);
}

kv::Sink TestTransport::OnBulk(kv::EndpointId endpoint, const kv::BulkHeader& header,
                               size_t bytes) {
  if (dead_) return {};
  return handler_->OnBulk(endpoint, header, bytes);
}

void TestTransport::OnFailed(kv::EndpointId endpoint, const Status& status) {
  if (open_.erase(endpoint) > 0) handler_->OnFailed(endpoint, status);
}

TimeNs TestTransport::OnWake(TimeNs) {
  const TimeNs next_ns = handler_->OnWake(NowNs());
  if (network_ != nullptr) network_->WakeAt(next_ns);
  return next_ns;
}

}  // namespace reprise::parallel
