// One key of an etcd cluster, read and compared-and-swapped over its gRPC API. Owned by Leadership;
// one thread at a time, which it blocks for up to `timeout_ms` an endpoint.
//
// Invariants:
// 1. Reads are linearizable (etcd's default), so a value read was current after the call began.
// 2. A swap is sent once: an error says nothing about whether it happened.
#ifndef REPRISE_COORDINATOR_LEADER_ETCD_CLIENT_H_
#define REPRISE_COORDINATOR_LEADER_ETCD_CLIENT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "etcd.grpc.pb.h"

namespace reprise::coordinator {

struct EtcdOptions {
  std::vector<std::string> endpoints;  // host:port; each is tried, the last that answered first
  std::string key;
  int64_t timeout_ms = 400;
};

class EtcdClient {
 public:
  explicit EtcdClient(EtcdOptions options);

  struct Stored {
    int64_t revision = 0;  // of the key's last change; 0: there is no key
    std::string value;
  };
  // UNAVAILABLE when no endpoint answers; the message names them.
  StatusOr<Stored> Read();
  // Writes `value` if the key is still as of `revision`, and says whether it was.
  StatusOr<bool> Swap(int64_t revision, const std::string& value);

 private:
  Status Failed(const std::string& endpoint, const grpc::Status& status);

  const EtcdOptions options_;
  std::vector<std::unique_ptr<etcdserverpb::KV::Stub>> stubs_;
  size_t current_ = 0;
};

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_LEADER_ETCD_CLIENT_H_
