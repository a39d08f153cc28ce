// Runs the rank role until told to stop: its gRPC door, its metrics door and the rank. Called once
// per process by the command line.
#ifndef REPRISE_WORKER_GROUP_RANK_MAIN_H_
#define REPRISE_WORKER_GROUP_RANK_MAIN_H_

#include <cstdint>
#include <string>

#include "common/role.h"
#include "common/status.h"

namespace reprise::worker {

struct RankOptions {
  std::string name = "rank";
  std::string listen = "127.0.0.1:0";          // gRPC, loopback only
  std::string group_listen = "127.0.0.1:0";    // between ranks
  std::string metrics_listen = "127.0.0.1:0";  // HTTP
  std::string model;                           // folder
  std::string group;                           // shape: "pp2,tp2"
  int32_t rank = -1;                           // whose weights it loads; -1: a spare, all
  std::string kv_dtype = "auto";
  std::string isa = "auto";
  int32_t threads = 1;
  std::string device = "cpu";  // or gpu, or emulated
  bool unproven_kernels = false;
  int32_t block_tokens = 64;
  std::string devices = "lo";
  bool shared_memory = true;
  int64_t stop_grace_ms = 500;
};

// Returns after `control.stop`, or with the reason why it could not start.
Status RunRank(const RankOptions& options, const RoleControl& control);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_RANK_MAIN_H_
