#include "cli/roles.h"
#include "gateway/server/gateway_main.h"

namespace reprise::cli {

int RunGatewayCommand(const Args& args) {
  gateway::GatewayOptions o;
  FlagSet flags("reprise gateway", "Runs the gateway: the clients' door.");
  flags.Add("name", &o.name, "name in logs and status; unique in the cluster");
  flags.Add("coordinator", &o.coordinator, "addresses of the coordinators, by commas");
  flags.Add("listen", &o.listen, "public gRPC address, loopback only");
  flags.Add("metrics-listen", &o.metrics_listen, "Prometheus address, loopback only");
  flags.Add("model", &o.model_dir, "model folder, for its tokenizer; empty: token ids only");
  flags.Add("model-name", &o.model, "the model asked for at the coordinator; empty: the only one");
  flags.Add("failure-domain", &o.failure_domain, "shown in status");
  flags.AddRange("streams-max", &o.streams_max, 1, 1 << 20, "requests at a time");
  flags.AddBytes("stream-buffer-bytes-max", &o.stream_buffer_bytes_max, 1024, int64_t{1} << 32,
                 "unread output of one stream before it is closed");
  flags.AddDurationMs("slow-reader-grace", &o.slow_reader_grace_ms, 0, 600'000,
                      "from a request's end until its unread output is dropped");
  flags.AddRange("attempts-max", &o.attempts_max, 1, 1000,
                 "attempts of one request in a row that fail without a token");
  flags.AddDurationMs("place-timeout", &o.place_timeout_ms, 10, 600'000,
                      "for the coordinator's answer");
  flags.AddDurationMs("stop-grace", &o.stop_grace_ms, 0, 600'000,
                      "for open streams to be read to their end when stopping");
  RoleFlags common;
  return RunRole(flags, common, args,
                 [&](const RoleControl& control) { return gateway::RunGateway(o, control); });
}

}  // namespace reprise::cli
