// A coordinator and workers for the gateway's tests: real gRPC on loopback, scripted behaviour, and
// waits instead of sleeps. Owned by the test; any thread.
#ifndef REPRISE_GATEWAY_SERVER_FAKE_CLUSTER_H_
#define REPRISE_GATEWAY_SERVER_FAKE_CLUSTER_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "common/rpc_server.h"
#include "common/thread.h"
#include "reprise/v1/cluster.grpc.pb.h"

namespace reprise::gateway {

inline constexpr int32_t kFakeVocab = 512;
inline constexpr int32_t kFakeContext = 200'000;

// The one right token of every request: a function of seed, branch and index.
int32_t FakeToken(uint64_t seed, uint32_t branch, uint32_t index);

// Runs requests that come by Submit, keeps them when their gateway leaves and hands them to whoever
// attaches with their handle.
class FakeWorker final : public v1::Worker::Service {
 public:
  FakeWorker(std::string name, uint64_t incarnation);
  ~FakeWorker() override;

  // Tokens per branch this worker gives a request before it falls silent; unlimited at first. A
  // request attached to gets all there are to get then.
  void FallSilentAfter(int32_t tokens);
  // What it answers to a Submit instead of tokens; code 0: tokens again.
  void RefuseWith(int code, const std::string& message);
  void SetTokensPerMessage(int32_t tokens);
  // Breaks every stream, as a crash does. `forget` also loses the requests.
  void Break(bool forget = true);
  // Says on every stream that it lives, every 50 ms from now on: `progress` rises by itself unless
  // it is `stuck`, which is busy for ever at the same step.
  void Beat(bool stuck = false);
  void StopBeating();

  v1::NodeRef ref() const;
  // Block until that many have come.
  v1::Submit WaitForSubmit(size_t nth);
  v1::Attach WaitForAttach(size_t nth);
  v1::ServeRequest::CancelOne WaitForCancel(size_t nth);
  // Of an attempt of this owner.
  v1::ServeRequest::Detach WaitForDetach(uint64_t owner_epoch);
  size_t submits() const;
  size_t cancels() const;

  grpc::Status Serve(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::ServeResponse, v1::ServeRequest>* stream) override;

 private:
  using ServeStream = grpc::ServerReaderWriter<v1::ServeResponse, v1::ServeRequest>;
  // Writes of the stream's own thread and of the heart are one at a time.
  struct Stream {
    grpc::ServerContext* context = nullptr;
    ServeStream* stream = nullptr;
    Mutex mu;
    bool Write(const v1::ServeResponse& response) {
      MutexLock lock(mu);
      return stream->Write(response);
    }
  };
  void OnSubmit(const v1::Submit& submit, Stream& stream);
  void OnAttach(const v1::Attach& attach, Stream& stream);
  void Run(const v1::Submit& request, Stream& stream, v1::ServeResponse first);
  void BeatLoop();

  const std::string name_;
  const uint64_t incarnation_;
  mutable Mutex mu_;
  CondVar changed_;
  int32_t silent_after_ GUARDED_BY(mu_) = INT32_MAX;
  int32_t tokens_per_message_ GUARDED_BY(mu_) = 1;
  int refuse_code_ GUARDED_BY(mu_) = 0;
  std::string refuse_message_ GUARDED_BY(mu_);
  bool beating_ GUARDED_BY(mu_) = false;
  bool stuck_ GUARDED_BY(mu_) = false;
  uint64_t progress_ GUARDED_BY(mu_) = 1;
  bool stopping_ GUARDED_BY(mu_) = false;
  std::vector<std::shared_ptr<Stream>> streams_ GUARDED_BY(mu_);
  std::map<std::string, v1::Submit> requests_ GUARDED_BY(mu_);
  std::vector<v1::Submit> submits_ GUARDED_BY(mu_);
  std::vector<v1::Attach> attaches_ GUARDED_BY(mu_);
  std::vector<v1::ServeRequest::CancelOne> cancels_ GUARDED_BY(mu_);
  std::vector<v1::ServeRequest::Detach> detaches_ GUARDED_BY(mu_);
  std::unique_ptr<RpcServer> server_;
  Thread heart_;
};

class FakeCoordinator final : public v1::Coordinator::Service {
 public:
  FakeCoordinator();
  ~FakeCoordinator() override;

  std::string address() const;
  // Placements go to the first worker that the caller does not avoid.
  void SetWorkers(std::vector<v1::NodeRef> workers);
  void RefuseWith(const grpc::Status& status);  // OK: place again
  // Attaches are sent there from now on; without a name: the request runs nowhere.
  void SetRunning(const v1::NodeRef& worker);
  // Told to every node that has not heard of it yet.
  void AddVerdict(const v1::NodeRef& worker, const std::string& reason);
  // What its answers carry.
  void SetLeaderEpoch(uint64_t epoch);
  // The process is gone: calls fail as connections do.
  void Kill();

  std::vector<v1::PlaceRequest> places() const;
  // Blocks until a report of a gateway names this request.
  v1::RequestReport WaitForReportOf(const std::string& request_id);
  // Blocks until that many reports have come, from now on.
  void WaitForReports(size_t more);
  // A restart without memory.
  void SetIncarnation(uint64_t incarnation);

  grpc::Status Report(grpc::ServerContext*, const v1::ReportRequest* request,
                      v1::ReportResponse* response) override;
  grpc::Status Place(grpc::ServerContext*, const v1::PlaceRequest* request,
                     v1::PlaceResponse* response) override;
  grpc::Status GetModel(grpc::ServerContext*, const v1::GetModelRequest* request,
                        v1::ModelInfo* response) override;

 private:
  mutable Mutex mu_;
  CondVar changed_;
  uint64_t incarnation_ GUARDED_BY(mu_) = 1;
  uint64_t leader_epoch_ GUARDED_BY(mu_) = 0;
  std::vector<v1::NodeRef> workers_ GUARDED_BY(mu_);
  v1::NodeRef running_ GUARDED_BY(mu_);
  grpc::Status refusal_ GUARDED_BY(mu_);
  std::vector<v1::Verdict> verdicts_ GUARDED_BY(mu_);
  std::vector<v1::PlaceRequest> places_ GUARDED_BY(mu_);
  size_t reports_ GUARDED_BY(mu_) = 0;
  std::map<std::string, v1::RequestReport> reported_ GUARDED_BY(mu_);
  std::map<std::string, v1::Attempt> attempts_ GUARDED_BY(mu_);
  std::string address_;
  std::unique_ptr<RpcServer> server_;
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_FAKE_CLUSTER_H_
