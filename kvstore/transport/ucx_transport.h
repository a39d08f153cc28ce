// The transport over UCX active messages with rendezvous, error handling mode PEER. Owned by the KV
// stream; one worker, one progress thread that sleeps on the worker's event descriptor when idle.
#ifndef REPRISE_KVSTORE_TRANSPORT_UCX_TRANSPORT_H_
#define REPRISE_KVSTORE_TRANSPORT_UCX_TRANSPORT_H_

#include <memory>
#include <string>

#include "common/status.h"
#include "kvstore/transport/transport.h"

namespace reprise::kv {

struct UcxOptions {
  std::string devices = "lo";      // network devices, comma-separated
  bool shared_memory = true;       // posix + CMA beside TCP; false: TCP only
  bool listen = true;              // false: a pure client
  std::string host = "127.0.0.1";  // numeric
  int port = 0;                    // 0: any
  std::string thread_name = "kv-transport";
};

// UNAVAILABLE when the address cannot be bound or UCX lacks what the options need.
StatusOr<std::unique_ptr<Transport>> CreateUcxTransport(const UcxOptions& options);

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_TRANSPORT_UCX_TRANSPORT_H_
