// The details of a peer's error are hostile bytes: any of them gives a status of the right code,
// with a retry hint inside its bounds or none.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "common/grpc_status.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string details(reinterpret_cast<const char*>(data), size);
  const reprise::Status status =
      reprise::FromGrpc(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue full", details));
  if (!absl::IsResourceExhausted(status)) std::abort();
  const auto retry_after_ms = reprise::RetryAfterMs(status);
  if (retry_after_ms && (*retry_after_ms < 0 || *retry_after_ms > 86'400'000)) std::abort();
  return 0;
}
