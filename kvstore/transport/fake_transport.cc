#include "kvstore/transport/fake_transport.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

namespace reprise::kv {

class FakeTransport final : public Transport {
 public:
  FakeTransport(FakeNetwork* network, int port) : network_(network), port_(port) {
    network_->transports_.insert(this);
    network_->listeners_[port_] = this;
  }
  ~FakeTransport() override {
    Stop([] { return true; });
    network_->transports_.erase(this);
  }

  void Start(TransportHandler* handler) override { handler_ = handler; }
  void Stop(std::function<bool()> quiet) override {
    if (handler_ == nullptr) return;
    while (!quiet()) {
      if (!network_->RunOne()) network_->Advance(kMillisecond);
    }
    std::vector<EndpointId> open;
    for (const auto& [id, end] : network_->ends_) {
      if (end.owner == this && end.open) open.push_back(id);
    }
    for (const EndpointId id : open) Close(id);
    network_->RunUntilIdle();
    network_->listeners_.erase(port_);
    handler_ = nullptr;
  }
  int port() const override { return port_; }

  StatusOr<EndpointId> Connect(const std::string&, int port) override {
    FakeNetwork* net = network_;
    const EndpointId mine = net->next_end_++;
    net->ends_[mine] = {.owner = this, .port = port, .dialed = true};
    const auto listener = net->listeners_.find(port);
    if (listener == net->listeners_.end()) {
      net->Later(0, 0, [net, mine] { net->Fail(mine, absl::UnavailableError("unreachable")); });
      return mine;
    }
    const EndpointId theirs = net->next_end_++;
    net->ends_[theirs] = {.owner = listener->second, .peer = mine, .port = port};
    net->ends_[mine].peer = theirs;
    net->Later(0, port, [net, theirs] {
      const auto& end = net->ends_[theirs];
      if (end.open && end.owner->handler_) end.owner->handler_->OnAccepted(theirs);
    });
    return mine;
  }

  void Send(EndpointId from, std::string message) override {
    const FakeNetwork::End& end = network_->ends_[from];
    if (!end.open || end.peer == 0) return;
    if (network_->tamper_) message = network_->tamper_(std::move(message));
    if (message.empty()) return;
    network_->Later(FromPort(end), ToPort(end),
                    [net = network_, to = end.peer, message = std::move(message)] {
                      const auto& target = net->ends_[to];
                      if (!target.open || target.owner->handler_ == nullptr) return;
                      const auto* bytes = reinterpret_cast<const uint8_t*>(message.data());
                      target.owner->handler_->OnMessage(to, {bytes, message.size()});
                    });
  }

  void SendBulk(EndpointId from, const BulkHeader& header, std::span<const uint8_t> payload,
                Completion done) override {
    FakeNetwork::End& end = network_->ends_[from];
    const auto posted = std::make_shared<FakeNetwork::Posted>(std::move(done));
    if (!end.open || end.peer == 0) {
      network_->Later(0, 0, [posted] { posted->Complete(absl::CancelledError("closed")); });
      return;
    }
    std::erase_if(end.posted, [](const auto& other) { return other.expired(); });
    end.posted.push_back(posted);
    const int copies = network_->duplicate_bulk_ ? 2 : 1;
    for (int i = 0; i < copies; ++i) {
      const auto once =
          i == 0 ? posted : std::make_shared<FakeNetwork::Posted>([](const Status&) {});
      network_->Later(FromPort(end), ToPort(end),
                      [net = network_, to = end.peer, header, payload, once] {
                        net->Deliver(to, header, payload, once);
                      });
    }
  }

  void Close(EndpointId id) override {
    FakeNetwork::End& end = network_->ends_[id];
    if (!end.open) return;
    end.open = false;
    network_->AbandonHeld(id);
    for (const auto& waiting : std::exchange(end.posted, {})) {
      const auto posted = waiting.lock();
      if (posted == nullptr) continue;
      network_->Later(0, 0, [posted] { posted->Complete(absl::CancelledError("closed")); });
    }
    if (end.peer == 0) return;
    network_->Later(FromPort(end), ToPort(end), [net = network_, peer = end.peer] {
      net->Fail(peer, absl::UnavailableError("reset by the peer"));
    });
  }
  StatusOr<std::string> DescribeLanes(EndpointId) override { return std::string("fake"); }

  void Post(std::function<void()> function) override {
    network_->Later(0, 0, [this, net = network_, function = std::move(function)] {
      if (net->transports_.contains(this) && handler_ != nullptr) function();
    });
  }
  TimeNs NowNs() const override { return network_->now_ns_; }
  Status Register(void*, size_t) override { return absl::OkStatus(); }

  TransportHandler* handler_ = nullptr;

 private:
  // Freezing names listening ports, so only that side's half of a connection has one.
  static int FromPort(const FakeNetwork::End& end) { return end.dialed ? 0 : end.port; }
  static int ToPort(const FakeNetwork::End& end) { return end.dialed ? end.port : 0; }

  FakeNetwork* const network_;
  const int port_;
};

std::unique_ptr<Transport> FakeNetwork::NewTransport(int port) {
  if (port == 0) port = next_port_++;
  return std::make_unique<FakeTransport>(this, port);
}

bool FakeNetwork::RunOne() {
  const auto next = std::find_if(events_.begin(), events_.end(),
                                 [this](const Event& event) { return !Blocked(event); });
  if (next == events_.end()) return false;
  const Event event = std::move(*next);
  events_.erase(next);
  event.run();
  return true;
}

void FakeNetwork::RunUntilIdle() {
  do {
    while (RunOne()) {
    }
    const std::set<FakeTransport*> transports = transports_;
    for (FakeTransport* transport : transports) {
      if (transport->handler_ != nullptr) transport->handler_->OnWake(now_ns_);
    }
  } while (std::any_of(events_.begin(), events_.end(),
                       [this](const Event& event) { return !Blocked(event); }));
}

void FakeNetwork::Advance(TimeNs by_ns) {
  const TimeNs until_ns = now_ns_ + by_ns;
  RunUntilIdle();
  while (now_ns_ < until_ns) {
    TimeNs next_ns = until_ns;
    for (FakeTransport* transport : transports_) {
      if (transport->handler_ != nullptr) {
        next_ns = std::min(next_ns, transport->handler_->OnWake(now_ns_));
      }
    }
    now_ns_ = std::max(next_ns, now_ns_ + 1);
    RunUntilIdle();
  }
}

void FakeNetwork::Deliver(EndpointId to, const BulkHeader& header, std::span<const uint8_t> payload,
                          const std::shared_ptr<Posted>& posted) {
  if (posted->completed) return;  // its memory may be gone
  const End& target = ends_[to];
  if (!target.open || target.owner->handler_ == nullptr) {
    posted->Complete(absl::UnavailableError("the receiver is gone"));
    return;
  }
  Sink sink = target.owner->handler_->OnBulk(to, header, payload.size());
  if (sink.destination == nullptr) {
    posted->Complete(absl::AbortedError("refused"));
    return;
  }
  const bool corrupt = corrupt_in_ > 0 && --corrupt_in_ == 0;
  auto finish = [this, to, payload, sink, posted, corrupt] {
    const bool arrives = ends_[to].open && !posted->completed;
    if (arrives) {
      std::memcpy(sink.destination, payload.data(), payload.size());
      if (corrupt) sink.destination[payload.size() / 2] ^= 0x10;
    }
    const Status status = arrives ? absl::OkStatus() : absl::UnavailableError("connection lost");
    sink.done(status);
    posted->Complete(status);
  };
  if (hold_bulk_ && ends_[to].open) {
    held_.emplace_back(to, std::move(finish));
  } else {
    finish();
  }
}

void FakeNetwork::ReleaseHeld() {
  for (auto& [end, finish] : held_) Later(0, 0, std::move(finish));
  held_.clear();
}

void FakeNetwork::AbandonHeld(EndpointId id) {
  for (auto& [end, finish] : held_) {
    if (end == id) Later(0, 0, std::move(finish));
  }
  std::erase_if(held_, [id](const auto& held) { return held.first == id; });
}

void FakeNetwork::Fail(EndpointId id, const Status& status) {
  End& end = ends_[id];
  if (!end.open) return;
  end.open = false;
  AbandonHeld(id);
  if (end.owner->handler_ != nullptr) end.owner->handler_->OnFailed(id, status);
}

void FakeNetwork::Kill(int port) {
  std::vector<EndpointId> lost;
  for (const auto& [id, end] : ends_) {
    if (end.port == port && end.open) lost.push_back(id);
  }
  for (const EndpointId id : lost) Fail(id, absl::UnavailableError("the peer died"));
}

}  // namespace reprise::kv
