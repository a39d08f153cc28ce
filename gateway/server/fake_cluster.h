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
#include "reprise/v1/cluster.grpc.pb.h"

namespace reprise::gateway {

inline constexpr int32_t kFakeVocab = 512;
inline constexpr int32_t kFakeContext = 200'000;

// The one right token of every request: a function of seed, branch and index.
int32_t FakeToken(uint64_t seed, uint32_t branch, uint32_t index);

class FakeWorker final : public v1::Worker::Service {
 public:
  FakeWorker(std::string name, uint64_t incarnation);
  ~FakeWorker() override;

  // Tokens per branch this worker gives a request before it falls silent; unlimited at first.
  void FallSilentAfter(int32_t tokens);
  // What it answers to a Submit instead of tokens.
  void RefuseWith(int code, const std::string& message);
  void SetTokensPerMessage(int32_t tokens);
  // Breaks every stream, as a crash does.
  void Break();

  v1::NodeRef ref() const;
  // Block until that many have come.
  v1::Submit WaitForSubmit(size_t nth);
  v1::ServeRequest::CancelOne WaitForCancel(size_t nth);
  size_t submits() const;

  grpc::Status Serve(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::ServeResponse, v1::ServeRequest>* stream) override;

 private:
  using Stream = grpc::ServerReaderWriter<v1::ServeResponse, v1::ServeRequest>;
  void Run(const v1::Submit& submit, Stream* stream);

  const std::string name_;
  const uint64_t incarnation_;
  mutable Mutex mu_;
  CondVar changed_;
  int32_t silent_after_ GUARDED_BY(mu_) = INT32_MAX;
  int32_t tokens_per_message_ GUARDED_BY(mu_) = 1;
  int refuse_code_ GUARDED_BY(mu_) = 0;
  std::string refuse_message_ GUARDED_BY(mu_);
  std::vector<grpc::ServerContext*> streams_ GUARDED_BY(mu_);
  std::vector<v1::Submit> submits_ GUARDED_BY(mu_);
  std::vector<v1::ServeRequest::CancelOne> cancels_ GUARDED_BY(mu_);
  std::unique_ptr<RpcServer> server_;
};

class FakeCoordinator final : public v1::Coordinator::Service {
 public:
  FakeCoordinator();
  ~FakeCoordinator() override;

  std::string address() const;
  // Placements go to the first worker that the caller does not avoid.
  void SetWorkers(std::vector<v1::NodeRef> workers);
  void RefuseWith(const grpc::Status& status);  // OK: place again
  void SetState(const v1::NodeRef& worker, const std::string& state);
  // The process is gone: calls fail as connections do.
  void Kill();

  std::vector<v1::PlaceRequest> places() const;
  // Blocks until a report of a gateway names this request.
  void WaitForReportOf(const std::string& request_id);
  // A restart without memory.
  void SetIncarnation(uint64_t incarnation);

  grpc::Status Report(grpc::ServerContext*, const v1::ReportRequest* request,
                      v1::ReportResponse* response) override;
  grpc::Status Place(grpc::ServerContext*, const v1::PlaceRequest* request,
                     v1::PlaceResponse* response) override;
  grpc::Status GetModel(grpc::ServerContext*, const v1::GetModelRequest* request,
                        v1::ModelInfo* response) override;
  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetStatusRequest* request,
                         v1::ClusterStatus* response) override;

 private:
  mutable Mutex mu_;
  CondVar changed_;
  uint64_t incarnation_ GUARDED_BY(mu_) = 1;
  std::vector<v1::NodeRef> workers_ GUARDED_BY(mu_);
  grpc::Status refusal_ GUARDED_BY(mu_);
  std::vector<v1::NodeStatus> states_ GUARDED_BY(mu_);
  std::vector<v1::PlaceRequest> places_ GUARDED_BY(mu_);
  std::vector<std::string> reported_ GUARDED_BY(mu_);
  std::map<std::string, uint32_t> attempts_ GUARDED_BY(mu_);
  std::string address_;
  std::unique_ptr<RpcServer> server_;
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_FAKE_CLUSTER_H_
