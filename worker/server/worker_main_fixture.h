// Whole workers on threads of the test, a coordinator that only listens, and a gateway's stream.
#ifndef REPRISE_WORKER_SERVER_WORKER_MAIN_FIXTURE_H_
#define REPRISE_WORKER_SERVER_WORKER_MAIN_FIXTURE_H_

#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "common/rpc_server.h"
#include "common/thread.h"
#include "reprise/v1/cluster.grpc.pb.h"
#include "worker/engine/timed_executor.h"
#include "worker/server/worker_main.h"

namespace reprise::worker {

inline constexpr TimeNs kPatience = 20 * kSecond;

// Learns incarnations and models from the workers' reports.
class FakeCoordinator : public v1::Coordinator::Service {
 public:
  grpc::Status Report(grpc::ServerContext*, const v1::ReportRequest* request,
                      v1::ReportResponse* response) override {
    MutexLock lock(mu_);
    nodes_[request->node().ref().name()] = request->node();
    loads_[request->node().ref().name()] = request->load();
    requests_[request->node().ref().name()] = {request->requests().begin(),
                                               request->requests().end()};
    blocks_ += request->events().events_size();
    response->set_coordinator_incarnation(1);
    response->set_next_event(request->events().first() +
                             static_cast<uint64_t>(request->events().events_size()));
    response->set_report_interval_ms(10);
    if (request->leaving()) left_ = true;
    changed_.NotifyAll();
    return grpc::Status::OK;
  }
  v1::NodeInfo WaitFor(const std::string& name) {
    MutexLock lock(mu_);
    while (!nodes_.contains(name)) changed_.Wait(mu_);
    return nodes_[name];
  }
  bool WaitForBlocks(int blocks) {
    const TimeNs until = RealClock().NowNs() + kPatience;
    MutexLock lock(mu_);
    while (blocks_ < blocks && RealClock().NowNs() < until) {
      changed_.WaitFor(mu_, std::chrono::milliseconds(100));
    }
    return blocks_ >= blocks;
  }
  // Until a report of the node satisfies `what`.
  bool WaitForReport(
      const std::string& name,
      const std::function<bool(const v1::Load&, const std::vector<v1::RequestReport>&)>& what) {
    const TimeNs until = RealClock().NowNs() + kPatience;
    MutexLock lock(mu_);
    while (!what(loads_[name], requests_[name]) && RealClock().NowNs() < until) {
      changed_.WaitFor(mu_, std::chrono::milliseconds(100));
    }
    return what(loads_[name], requests_[name]);
  }
  bool left() {
    MutexLock lock(mu_);
    return left_;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::map<std::string, v1::NodeInfo> nodes_ GUARDED_BY(mu_);
  std::map<std::string, v1::Load> loads_ GUARDED_BY(mu_);
  std::map<std::string, std::vector<v1::RequestReport>> requests_ GUARDED_BY(mu_);
  int blocks_ GUARDED_BY(mu_) = 0;
  bool left_ GUARDED_BY(mu_) = false;
};

// A worker on its own thread until destroyed.
class Running {
 public:
  explicit Running(WorkerOptions options) : options_(std::move(options)) {
    thread_ = Thread("worker", [this] {
      const Status status =
          RunWorker(options_, {.stop = &stop_, .ready = [this](const RoleAddresses& at) {
                                 MutexLock lock(mu_);
                                 addresses_ = at;
                                 changed_.NotifyAll();
                               }});
      MutexLock lock(mu_);
      ended_ = status;
      changed_.NotifyAll();
    });
  }
  ~Running() { EXPECT_TRUE(Stop().ok()); }
  RoleAddresses WaitReady() {
    MutexLock lock(mu_);
    while (!addresses_ && !ended_) changed_.Wait(mu_);
    EXPECT_TRUE(addresses_.has_value()) << *ended_;
    return addresses_.value_or(RoleAddresses());
  }
  Status Stop() {
    stop_.Stop();
    thread_.Join();
    MutexLock lock(mu_);
    return *ended_;
  }

 private:
  const WorkerOptions options_;
  StopSignal stop_;
  Mutex mu_;
  CondVar changed_;
  std::optional<RoleAddresses> addresses_ GUARDED_BY(mu_);
  std::optional<Status> ended_ GUARDED_BY(mu_);
  Thread thread_;
};

// A gateway's stream, one thread.
class Client {
 public:
  explicit Client(const std::string& address)
      : stub_(v1::Worker::NewStub(ClusterChannel(address))) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::nanoseconds(kPatience));
    stream_ = stub_->Serve(&context_);
    v1::ServeRequest hello;
    hello.mutable_hello()->set_gateway("test");
    EXPECT_TRUE(stream_->Write(hello));
  }
  ~Client() { context_.TryCancel(); }
  void Submit(const v1::Submit& submit) {
    v1::ServeRequest request;
    *request.mutable_submit() = submit;
    EXPECT_TRUE(stream_->Write(request));
  }
  void Cancel(const std::string& id) {
    v1::ServeRequest request;
    request.mutable_cancel()->set_request_id(id);
    request.mutable_cancel()->mutable_attempt()->set_n(1);
    EXPECT_TRUE(stream_->Write(request));
  }
  // Until the request is done.
  v1::WorkerDone Wait(const std::string& id) {
    v1::ServeResponse response;
    while (!done_.contains(id) && stream_->Read(&response)) Take(response);
    EXPECT_TRUE(done_.contains(id));
    return done_[id];
  }
  void WaitForToken(const std::string& id, size_t tokens = 1) {
    v1::ServeResponse response;
    while (ids[id].size() < tokens && stream_->Read(&response)) Take(response);
    EXPECT_GE(ids[id].size(), tokens);
  }
  void Attach(const v1::Attach& attach) {
    v1::ServeRequest request;
    *request.mutable_attach() = attach;
    EXPECT_TRUE(stream_->Write(request));
  }
  void Detach(const v1::Submit& submit) {
    v1::ServeRequest request;
    request.mutable_detach()->set_request_id(submit.request_id());
    *request.mutable_detach()->mutable_attempt() = submit.attempt();
    EXPECT_TRUE(stream_->Write(request));
  }
  // The next message that says nothing but that the worker lives.
  v1::ServeResponse WaitForBeat() {
    v1::ServeResponse response;
    while (stream_->Read(&response) && response.events_size() > 0) Take(response);
    return response;
  }
  std::map<std::string, v1::Attached> attached;
  std::map<std::string, std::vector<int32_t>> ids;  // of branch 0

 private:
  void Take(const v1::ServeResponse& response) {
    for (const v1::RequestEvent& event : response.events()) {
      if (event.has_attached()) attached[event.request_id()] = event.attached();
      for (const v1::WorkerToken& token : event.tokens()) {
        EXPECT_EQ(token.index(), ids[event.request_id()].size());
        ids[event.request_id()].push_back(token.id());
      }
      if (event.has_done()) done_[event.request_id()] = event.done();
    }
  }
  std::unique_ptr<v1::Worker::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::ServeRequest, v1::ServeResponse>> stream_;
  std::map<std::string, v1::WorkerDone> done_;
};

class WorkerMainTest : public testing::Test {
 protected:
  WorkerMainTest() : door_(std::move(*RpcServer::Start("127.0.0.1:0", {&coordinator_}))) {}

  WorkerOptions Options(const std::string& name) {
    WorkerOptions options;
    options.name = name;
    options.coordinator = door_->address();
    options.timed = true;
    options.timed_settings.step_ms = 0;
    options.timed_settings.prefill_ms_per_token = 0;
    options.block_tokens = 8;
    options.chunk_tokens = 32;
    options.pool_bytes = 1 << 20;
    options.report_interval_ms = 10;
    return options;
  }
  v1::Submit Request(const v1::NodeInfo& worker, const std::string& id, int prompt, int max) {
    v1::Submit submit;
    submit.set_request_id(id);
    submit.mutable_attempt()->set_n(1);
    submit.set_worker_incarnation(worker.ref().incarnation());
    for (int i = 0; i < prompt; ++i) submit.add_prompt((i * 31 + 7) % 4096);
    submit.mutable_sampling()->set_n(1);
    submit.mutable_sampling()->set_top_p(1);
    submit.mutable_sampling()->set_repetition_penalty(1);
    submit.mutable_sampling()->set_seed(3);
    submit.mutable_sampling()->set_max_tokens(max);
    return submit;
  }
  std::vector<int32_t> Expected(const v1::Submit& submit) {
    TimedModel model;
    model.block_tokens = 8;
    SamplingParams params;
    params.seed = submit.sampling().seed();
    params.max_tokens = submit.sampling().max_tokens();
    const std::vector<int32_t> prompt(submit.prompt().begin(), submit.prompt().end());
    std::vector<int32_t> ids;
    for (const SampledToken& token : ExpectedTimedTokens(model, prompt, params, 0)) {
      ids.push_back(token.id);
    }
    return ids;
  }

  FakeCoordinator coordinator_;
  std::unique_ptr<RpcServer> door_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_SERVER_WORKER_MAIN_FIXTURE_H_
