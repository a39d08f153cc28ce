// A process's place in its groups over UCX (group_host.h), for whoever runs a rank outside this
// folder. Stateless; any thread.
#ifndef REPRISE_WORKER_PARALLEL_UCX_GROUP_H_
#define REPRISE_WORKER_PARALLEL_UCX_GROUP_H_

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "common/status.h"
#include "worker/parallel/group_host.h"

namespace reprise::parallel {

struct UcxGroupOptions {
  std::string devices = "lo";      // network devices, comma-separated
  bool shared_memory = true;       // between processes of one host, beside TCP
  std::string host = "127.0.0.1";  // numeric
  int port = 0;                    // 0: any
};

// `listen` is host:port, loopback only. INVALID_ARGUMENT or PERMISSION_DENIED names what it is.
StatusOr<UcxGroupOptions> ParseUcxGroupOptions(absl::string_view listen, const std::string& devices,
                                               bool shared_memory);

// UNAVAILABLE when the address cannot be bound or UCX lacks what the options need.
StatusOr<std::unique_ptr<GroupHost>> MakeUcxGroupHost(const UcxGroupOptions& options);

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_UCX_GROUP_H_
