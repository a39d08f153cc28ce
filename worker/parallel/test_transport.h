// A transport whose process can be killed by the test: the real one or the fake network's,
// decorated. Owned by the host under test; Kill and KillAfter from any thread.
//
// DrivenNetwork runs the fake network, which is one thread's, on a thread of its own and in real
// time, so that blocking callers can be tested over it.
#ifndef REPRISE_WORKER_PARALLEL_TEST_TRANSPORT_H_
#define REPRISE_WORKER_PARALLEL_TEST_TRANSPORT_H_

#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <vector>

#include "common/mutex.h"
#include "common/thread.h"
#include "kvstore/transport/fake_transport.h"
#include "kvstore/transport/transport.h"

namespace reprise::parallel {

class DrivenNetwork {
 public:
  DrivenNetwork();
  ~DrivenNetwork();
  // Runs on the network's thread, soon.
  void Post(std::function<void()> function);
  void RunAndWait(const std::function<void()>& function);
  kv::FakeNetwork& network() { return network_; }  // on the network's thread only
  void WakeAt(TimeNs at_ns);                       // ditto

 private:
  void Run();

  kv::FakeNetwork network_;
  TimeNs wake_at_ns_ = INT64_MAX;
  Mutex mu_;
  CondVar changed_;
  std::vector<std::function<void()>> posted_ GUARDED_BY(mu_);
  bool stopping_ GUARDED_BY(mu_) = false;
  Thread thread_;
};

class TestTransport final : public kv::Transport, public kv::TransportHandler {
 public:
  explicit TestTransport(std::unique_ptr<kv::Transport> real) : inner_(std::move(real)) {}
  explicit TestTransport(DrivenNetwork* network);
  ~TestTransport() override;

  // All connections break without a word; nothing is sent or heard any more.
  void Kill();
  // When the process sends a message or payload after that many.
  void KillAfter(int messages) { left_.store(messages); }

  void Start(kv::TransportHandler* handler) override;
  void Stop(std::function<bool()> quiet) override;
  int port() const override { return inner_->port(); }
  StatusOr<kv::EndpointId> Connect(const std::string& host, int port) override;
  void Send(kv::EndpointId endpoint, std::string message) override;
  void SendBulk(kv::EndpointId endpoint, const kv::BulkHeader& header,
                std::span<const uint8_t> payload, kv::Completion done) override;
  void Close(kv::EndpointId endpoint) override;
  StatusOr<std::string> DescribeLanes(kv::EndpointId endpoint) override {
    return inner_->DescribeLanes(endpoint);
  }
  void Post(std::function<void()> function) override;
  TimeNs NowNs() const override { return RealClock().NowNs(); }
  Status Register(void* base, size_t bytes) override { return inner_->Register(base, bytes); }

  void OnAccepted(kv::EndpointId endpoint) override;
  void OnMessage(kv::EndpointId endpoint, std::span<const uint8_t> message) override;
  kv::Sink OnBulk(kv::EndpointId endpoint, const kv::BulkHeader& header, size_t bytes) override;
  void OnFailed(kv::EndpointId endpoint, const Status& status) override;
  TimeNs OnWake(TimeNs now_ns) override;

 private:
  void Die();
  bool Dying();  // counts what is sent

  DrivenNetwork* const network_ = nullptr;
  std::unique_ptr<kv::Transport> inner_;
  std::atomic<int> left_{INT32_MAX};
  // The loop's own.
  bool stopped_ = false;
  kv::TransportHandler* handler_ = nullptr;
  std::set<kv::EndpointId> open_;
  bool dead_ = false;
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_TEST_TRANSPORT_H_
