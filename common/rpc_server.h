// A role's gRPC door: loopback only, standard health and reflection, one place for channel limits.
// Owned by the role's main; any thread.
#ifndef REPRISE_COMMON_RPC_SERVER_H_
#define REPRISE_COMMON_RPC_SERVER_H_

#include <grpcpp/server.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise {

class RpcServer {
 public:
  // Listens on `address` (host:port, port 0 for any) with `services`, which must outlive it. Not
  // serving until SetServing(true). UNAVAILABLE when the address cannot be bound.
  static StatusOr<std::unique_ptr<RpcServer>> Start(absl::string_view address,
                                                    const std::vector<grpc::Service*>& services);
  ~RpcServer();

  std::string address() const { return address_; }  // with the port in use
  void SetServing(bool serving);
  // Refuses new calls and ends the running ones after `grace_ms`.
  void Shutdown(int grace_ms);

 private:
  RpcServer(std::unique_ptr<grpc::Server> server, std::string address);
  std::unique_ptr<grpc::Server> server_;
  const std::string address_;
};

// Ends a unary call.
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const Status& status);

// The one way to make a channel inside the cluster: message limits, quick reconnects, a connection
// of its own.
std::shared_ptr<grpc::Channel> ClusterChannel(const std::string& address);

}  // namespace reprise

#endif  // REPRISE_COMMON_RPC_SERVER_H_
