#include "worker/parallel/ucx_group.h"

#include <utility>

#include "common/bind_address.h"
#include "kvstore/transport/ucx_transport.h"

namespace reprise::parallel {

StatusOr<UcxGroupOptions> ParseUcxGroupOptions(absl::string_view listen, const std::string& devices,
                                               bool shared_memory) {
  ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(listen));
  RETURN_IF_ERROR(CheckLoopback(at.host));
  return UcxGroupOptions{
      .devices = devices, .shared_memory = shared_memory, .host = at.host, .port = at.port};
}

StatusOr<std::unique_ptr<GroupHost>> MakeUcxGroupHost(const UcxGroupOptions& options) {
  ASSIGN_OR_RETURN(auto transport, kv::CreateUcxTransport({.devices = options.devices,
                                                           .shared_memory = options.shared_memory,
                                                           .host = options.host,
                                                           .port = options.port,
                                                           .thread_name = "rank-transport"}));
  return std::make_unique<GroupHost>(std::move(transport));
}

}  // namespace reprise::parallel
