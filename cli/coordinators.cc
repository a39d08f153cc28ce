#include "cli/coordinators.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "common/rpc_server.h"
#include "coordinator/client/reporter_group.h"

namespace reprise::cli {
namespace {

void SetDeadline(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(3));
}

Status Named(const std::string& address, const grpc::Status& status) {
  const Status inner = FromGrpc(status);
  return Status(inner.code(), absl::StrCat("coordinator ", address, ": ", inner.message()));
}

}  // namespace

StatusOr<Coordinators> Coordinators::Connect(const std::string& addresses) {
  ASSIGN_OR_RETURN(const std::vector<std::string> list, ParseCoordinators(addresses));
  Coordinators coordinators;
  for (const std::string& address : list) {
    coordinators.members_.emplace_back(address, v1::Coordinator::NewStub(ClusterChannel(address)));
  }
  return coordinators;
}

StatusOr<v1::ClusterStatus> Coordinators::GetStatus() {
  StatusOr<v1::ClusterStatus> best = absl::UnavailableError("no coordinator is named");
  for (const auto& [address, stub] : members_) {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::ClusterStatus answer;
    const grpc::Status status = stub->GetStatus(&context, v1::GetStatusRequest(), &answer);
    if (!status.ok()) {
      if (!best.ok()) best = Named(address, status);
      continue;
    }
    if (answer.leads()) return answer;
    if (!best.ok()) best = std::move(answer);
  }
  return best;
}

StatusOr<v1::DrainResponse> Coordinators::Drain(const std::string& node, int64_t deadline_ms) {
  v1::DrainRequest request;
  request.set_name(node);
  request.set_deadline_ms(deadline_ms);
  Status last = absl::UnavailableError("no coordinator is named");
  for (const auto& [address, stub] : members_) {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::DrainResponse response;
    const grpc::Status status = stub->Drain(&context, request, &response);
    if (status.ok()) return response;
    last = Named(address, status);
    if (last.code() != absl::StatusCode::kUnavailable) return last;
  }
  return last;
}

}  // namespace reprise::cli
