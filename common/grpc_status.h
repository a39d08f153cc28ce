// The one place where absl::Status meets other error systems: gRPC's Status and HTTP's codes.
// Stateless; any thread.
//
// A retry hint travels as the google.rpc.RetryInfo detail of the standard google.rpc.Status, so
// foreign gRPC clients can read it; error details of a peer are parsed as hostile bytes.
#ifndef REPRISE_COMMON_GRPC_STATUS_H_
#define REPRISE_COMMON_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include <cstdint>
#include <optional>

#include "common/status.h"

namespace reprise {

// Adds "the caller may try again after `ms`"; no effect on OK.
Status WithRetryAfter(Status status, int64_t ms);
std::optional<int64_t> RetryAfterMs(const Status& status);

grpc::Status ToGrpc(const Status& status);
// A code outside gRPC's becomes UNKNOWN.
Status FromGrpc(const grpc::Status& status);

// The HTTP code of a refusal: 429 for RESOURCE_EXHAUSTED, 499 for CANCELLED, and so on.
int HttpCode(const Status& status);

}  // namespace reprise

#endif  // REPRISE_COMMON_GRPC_STATUS_H_
