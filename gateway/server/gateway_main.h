// The gateway role: the public service, its metrics, and its links to coordinator and workers. The
// command line and tests run it; one thread calls RunGateway and stays in it until told to stop.
#ifndef REPRISE_GATEWAY_SERVER_GATEWAY_MAIN_H_
#define REPRISE_GATEWAY_SERVER_GATEWAY_MAIN_H_

#include <cstdint>
#include <string>

#include "common/limits.h"
#include "common/role.h"
#include "common/status.h"

namespace reprise::gateway {

struct GatewayOptions {
  std::string name = "gateway";
  std::string listen = "127.0.0.1:0";          // public gRPC, loopback only
  std::string metrics_listen = "127.0.0.1:0";  // HTTP, loopback only; empty: none
  std::string coordinator;  // host:port of each coordinator of the group, separated by commas
  std::string model;        // the name asked for at the coordinator; empty: the only one
  std::string model_dir;    // tokenizer and defaults; empty: token ids only
  std::string failure_domain;
  int32_t streams_max = limits::kGatewayStreamsMax;
  int64_t stream_buffer_bytes_max = static_cast<int64_t>(limits::kStreamBufferBytesMax);
  int64_t slow_reader_grace_ms = 10'000;  // after a request's end, until its unread output is cut
  int32_t attempts_max = 8;               // of one request in a row that fail without a token
  int64_t place_timeout_ms = 5000;
  int64_t stop_grace_ms = 2000;  // for open streams to be read to their end
};

// The door answers at once, but health says "not serving", and `control.ready` is not called, until
// the coordinator has named the model. Returns after control.stop, or with the reason why it could
// not start.
Status RunGateway(const GatewayOptions& options, const RoleControl& control);

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_GATEWAY_MAIN_H_
