// Runs the coordinator role until told to stop: its gRPC door, its metrics door and its tick.
// Called once per process by the command line.
#ifndef REPRISE_COORDINATOR_SERVER_COORDINATOR_MAIN_H_
#define REPRISE_COORDINATOR_SERVER_COORDINATOR_MAIN_H_

#include <cstdint>
#include <string>

#include "common/role.h"
#include "common/status.h"

namespace reprise::coordinator {

struct CoordinatorOptions {
  std::string name = "coordinator";
  std::string listen = "127.0.0.1:0";  // loopback only
  std::string metrics_listen = "127.0.0.1:0";
  int32_t report_interval_ms = 300;       // what nodes are told
  int32_t idle_report_interval_ms = 600;  // while no node has a request, if longer
  int64_t suspect_after_ms = 900;
  int64_t dead_after_ms = 1000;
  int64_t forget_after_ms = 60'000;
  int64_t stuck_after_ms = 1500;  // busy without progress
  int32_t remote_prefill_min_tokens = 256;
  int32_t replica_stores = 1;  // per request
  bool elastic_roles = false;  // workers move between prefill and decode
  // Of a group: etcd's and the other members' doors, "host:port,host:port". Without etcd this
  // coordinator is the only one.
  std::string etcd;
  std::string peers;
  std::string group = "reprise";
};

// INVALID_ARGUMENT names the option, the limit and the value.
Status ValidateOptions(const CoordinatorOptions& options);

// Returns after `control.stop`, or at once when a door cannot be opened.
Status RunCoordinator(const CoordinatorOptions& options, const RoleControl& control);

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_SERVER_COORDINATOR_MAIN_H_
