// What the tests of whole gateways share: requests with known answers, a reader, gateways that run
// in this process against a fake cluster. Test only.
#ifndef REPRISE_GATEWAY_SERVER_GATEWAY_FIXTURE_H_
#define REPRISE_GATEWAY_SERVER_GATEWAY_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/client/generation_client.h"
#include "common/log.h"
#include "common/thread.h"
#include "gateway/server/fake_cluster.h"
#include "gateway/server/gateway_main.h"

namespace reprise::gateway {

using client::Completion;
using client::GenerationClient;

inline v1::GenerateRequest Request(int32_t max_tokens, uint64_t seed = 5) {
  v1::GenerateRequest request;
  for (int32_t id = 20; id < 29; ++id) request.mutable_ids()->add_ids(id);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_sampling()->set_seed(seed);
  return request;
}

inline std::vector<int32_t> Truth(uint64_t seed, uint32_t branch, int32_t tokens) {
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(tokens));
  for (int32_t i = 0; i < tokens; ++i) {
    ids.push_back(FakeToken(seed, branch, static_cast<uint32_t>(i)));
  }
  return ids;
}

// A stream read on gRPC's threads into a Completion.
class Reading {
 public:
  Reading(GenerationClient& client, const v1::GenerateRequest& request) {
    stream_ = client.Start(request, {.on_event = [this](const auto& event) { OnEvent(event); },
                                     .on_done = [this](const Status& status) { OnDone(status); }});
  }
  ~Reading() {
    stream_->Abandon();
    (void)Wait();
  }
  void Abandon() { stream_->Abandon(); }

  Status Wait() {
    MutexLock lock(mu_);
    while (!done_) changed_.Wait(mu_);
    return *done_;
  }
  v1::Accepted WaitAccepted() {
    MutexLock lock(mu_);
    while (completion_.accepted.request_id().empty() && !done_) changed_.Wait(mu_);
    return completion_.accepted;
  }
  void WaitForTokens(size_t tokens) {
    MutexLock lock(mu_);
    while (!done_ && (completion_.branches.empty() || completion_.branches[0].ids.size() < tokens))
      changed_.Wait(mu_);
  }
  // After Wait.
  const Completion& completion() const { return completion_; }
  const Status& broken() const { return broken_; }

 private:
  void OnEvent(const v1::GenerateEvent& event) {
    MutexLock lock(mu_);
    if (broken_.ok()) broken_ = completion_.Add(event);
    changed_.NotifyAll();
  }
  void OnDone(const Status& status) {
    MutexLock lock(mu_);
    done_ = status;
    changed_.NotifyAll();
  }
  Mutex mu_;
  CondVar changed_;
  Completion completion_;
  Status broken_;
  std::optional<Status> done_ GUARDED_BY(mu_);
  std::shared_ptr<client::GenerationStream> stream_;
};

// One gateway on a thread of its own, until stopped.
class RunningGateway {
 public:
  explicit RunningGateway(GatewayOptions options) {
    options.metrics_listen = "";
    std::promise<std::string> address;
    auto ready = address.get_future();
    thread_ = Thread("gateway", [this, options, &address] {
      result_ = RunGateway(options, {.stop = &stop_, .ready = [&](const RoleAddresses& a) {
                                       address.set_value(a.grpc);
                                     }});
    });
    address_ = ready.get();
    client_ = std::make_unique<GenerationClient>(
        client::ClientOptions{.address = address_, .resume_tries = 0});
  }
  ~RunningGateway() { Stop(); }
  void Stop() {
    stop_.Stop();
    thread_.Join();
    EXPECT_TRUE(result_.ok()) << result_;
  }
  const std::string& address() const { return address_; }
  GenerationClient& client() { return *client_; }

 private:
  StopSignal stop_;
  Status result_;
  std::string address_;
  std::unique_ptr<GenerationClient> client_;
  Thread thread_;
};

class GatewayTest : public ::testing::Test {
 protected:
  void StartGateway() {
    gateway_ = Another();
    address_ = gateway_->address();
    client_ = &gateway_->client();
  }
  // One more of the same cluster.
  std::unique_ptr<RunningGateway> Another() {
    coordinator_.SetWorkers({a_.ref(), b_.ref()});
    options_.coordinator = coordinator_.address();
    return std::make_unique<RunningGateway>(options_);
  }
  void TearDown() override {
    gateway_.reset();
    EXPECT_EQ(BugCount(), 0u);
  }
  void StopGateway() { gateway_->Stop(); }

  GatewayOptions options_;
  FakeCoordinator coordinator_;
  FakeWorker a_{"a", 101};
  FakeWorker b_{"b", 102};
  std::string address_;
  GenerationClient* client_ = nullptr;
  std::unique_ptr<RunningGateway> gateway_;
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_GATEWAY_FIXTURE_H_
