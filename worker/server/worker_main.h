// Runs the worker role until told to stop: executor, engine, gRPC door, metrics door and reports.
// Called once per process by the command line.
#ifndef REPRISE_WORKER_SERVER_WORKER_MAIN_H_
#define REPRISE_WORKER_SERVER_WORKER_MAIN_H_

#include <cstdint>
#include <string>

#include "common/role.h"
#include "common/status.h"

namespace reprise::worker {

// The timed engine instead of a model (worker/engine/timed_executor.h).
struct TimedSettings {
  double prefill_ms_per_token = 0.05;
  double step_ms = 20;
  double hidden_ms = 0;  // work between steps that the device does not wait for
  int32_t vocab_size = 4096;
  int32_t context_tokens = 8192;
  int32_t layers = 4;
  int32_t row_bytes = 64;  // of one token in one layer
  bool two_forms = false;  // rows of generated positions have other bits
  int64_t key = 1;         // two workers share KV only with the same key
};

struct WorkerOptions {
  std::string name = "worker";
  std::string coordinator;                     // host:port,...: all of a group; empty: no reports
  std::string listen = "127.0.0.1:0";          // gRPC, loopback only
  std::string advertise;                       // gRPC address others are told; empty: the own
  std::string kv_listen = "127.0.0.1:0";       // KV stream
  std::string metrics_listen = "127.0.0.1:0";  // HTTP
  std::string failure_domain;
  bool prefill = true;  // serves legs of requests that decode elsewhere
  bool decode = true;   // takes requests from gateways

  std::string model;  // folder
  // What computes: cpu; gpu, a card, in a build that has its kernels; emulated, in any other build:
  // the CPU does what a card would, slowly, for trying and for tests.
  std::string device = "cpu";
  bool unproven_kernels = false;  // of a card: docs/gpu.md says which those are
  bool timed = false;
  TimedSettings timed_settings;
  std::string kv_dtype = "auto";
  std::string isa = "auto";
  int32_t threads = 1;
  int32_t block_tokens = 64;
  int32_t chunk_tokens = 0;  // prompt tokens a step may hold; 0: what the executor says
  int64_t pool_bytes = int64_t{256} << 20;
  int64_t swap_host_bytes = 0;   // for sequences beyond the pool
  int64_t swap_disk_bytes = 0;   // and beyond that
  std::string swap_dir;          // of the disk's file
  int64_t swap_bytes_per_s = 0;  // caps the link between pool and slots (benchmarks); 0: none
  int32_t microbatches = 1;      // the running set takes turns in so many parts
  int32_t running_max = 64;
  int32_t waiting_max = 512;
  int32_t local_suffix_tokens = 1;  // up to this long, a suffix is computed here in any case
  int64_t fetch_timeout_ms = 10'000;
  int64_t leg_timeout_ms = 60'000;
  int64_t leg_linger_ms = 10'000;
  std::string recovery = "planned";  // or always one of restore, recompute, wait (benchmarks)

  // A group of ranks: its shape ("pp2,tp2"; empty: this process alone), the gRPC addresses of the
  // other ranks' processes, spares included, and where this one listens for them.
  std::string group;
  std::string ranks;
  std::string group_listen = "127.0.0.1:0";

  std::string devices = "lo";
  bool shared_memory = true;
  int64_t throttle_bytes_per_s = 0;  // of outgoing KV; 0: none
  bool publish_layers = true;        // false: blocks move only when complete (benchmarks)
  int32_t report_interval_ms = 200;
  int64_t stop_grace_ms = 500;
  int64_t drain_deadline_ms = 10'000;  // for live streams to go elsewhere when stopping
};

// INVALID_ARGUMENT names the option, the limit and the value.
Status ValidateOptions(const WorkerOptions& options);

// Returns after `control.stop`, CANCELLED when that came before it served, or with the reason why
// it could not start.
Status RunWorker(const WorkerOptions& options, const RoleControl& control);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_SERVER_WORKER_MAIN_H_
