#include "worker/parallel/ucx_group.h"

#include <utility>

#include "kvstore/transport/ucx_transport.h"

namespace reprise::parallel {

StatusOr<std::unique_ptr<GroupHost>> MakeUcxGroupHost(const UcxGroupOptions& options) {
  ASSIGN_OR_RETURN(auto transport, kv::CreateUcxTransport({.devices = options.devices,
                                                           .shared_memory = options.shared_memory,
                                                           .host = options.host,
                                                           .port = options.port,
                                                           .thread_name = "rank-transport"}));
  return std::make_unique<GroupHost>(std::move(transport));
}

}  // namespace reprise::parallel
