#include "coordinator/leader/etcd_client.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/rpc_server.h"

namespace reprise::coordinator {
namespace {

// A call waits for the connection within its deadline: in a process where nothing else polls, one
// that fails at once would leave nobody to make it.
void SetDeadline(grpc::ClientContext& context, int64_t timeout_ms) {
  context.set_wait_for_ready(true);
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms));
}

}  // namespace

EtcdClient::EtcdClient(EtcdOptions options) : options_(std::move(options)) {
  for (const std::string& endpoint : options_.endpoints) {
    stubs_.push_back(etcdserverpb::KV::NewStub(ClusterChannel(endpoint)));
  }
}

// The next call begins elsewhere.
Status EtcdClient::Failed(const std::string& endpoint, const grpc::Status& status) {
  current_ = (current_ + 1) % stubs_.size();
  return absl::UnavailableError(absl::StrCat("etcd at ", endpoint, ": ", status.error_message()));
}

StatusOr<EtcdClient::Stored> EtcdClient::Read() {
  etcdserverpb::RangeRequest request;
  request.set_key(options_.key);
  Status last;
  for (size_t tried = 0; tried < stubs_.size(); ++tried) {
    grpc::ClientContext context;
    SetDeadline(context, options_.timeout_ms);
    etcdserverpb::RangeResponse response;
    const grpc::Status status = stubs_[current_]->Range(&context, request, &response);
    if (!status.ok()) {
      last = Failed(options_.endpoints[current_], status);
      continue;
    }
    if (response.kvs_size() == 0) return Stored{};
    return Stored{response.kvs(0).mod_revision(), response.kvs(0).value()};
  }
  return last;
}

StatusOr<bool> EtcdClient::Swap(int64_t revision, const std::string& value) {
  etcdserverpb::TxnRequest request;
  etcdserverpb::Compare* compare = request.add_compare();
  compare->set_target(etcdserverpb::Compare::MOD);
  compare->set_key(options_.key);
  compare->set_mod_revision(revision);
  etcdserverpb::PutRequest* put = request.add_success()->mutable_request_put();
  put->set_key(options_.key);
  put->set_value(value);
  grpc::ClientContext context;
  SetDeadline(context, options_.timeout_ms);
  etcdserverpb::TxnResponse response;
  const grpc::Status status = stubs_[current_]->Txn(&context, request, &response);
  if (!status.ok()) return Failed(options_.endpoints[current_], status);
  return response.succeeded();
}

}  // namespace reprise::coordinator
