// What a worker core is configured with. Values; any thread.
#ifndef REPRISE_WORKER_ENGINE_CORE_SETTINGS_H_
#define REPRISE_WORKER_ENGINE_CORE_SETTINGS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "common/clock.h"
#include "common/ids.h"
#include "common/limits.h"
#include "kvstore/block/block_id.h"
#include "worker/engine/chunk_budget.h"
#include "worker/engine/core/recovery_plan.h"

namespace reprise::worker {

struct NodeRef {
  NodeKey key;
  std::string grpc_address;
  std::string kv_address;
  bool operator==(const NodeRef&) const = default;
};

struct CoreSettings {
  NodeRef self;
  kv::ChainContext chain;  // format digest and block size; the salt is each request's tenant
  bool two_forms = false;  // the executor's word: prompt and step rows have other bits
  int32_t pages = 0;
  int32_t vocab_size = 0;
  int32_t context_tokens = 0;
  int32_t chunk_tokens = 512;  // of prompts (and replays), per step
  ChunkCost chunk_cost;
  int32_t running_max = 64;  // requests holding pages
  int32_t waiting_max = limits::kWorkerWaitingMax;
  // A missing prompt suffix up to this long is computed here even if a prefill node is given.
  int32_t local_suffix_tokens = 1;
  bool can_prefill = true;
  bool can_decode = true;
  TimeNs fetch_timeout_ns = 10 * kSecond;
  TimeNs leg_timeout_ns = 60 * kSecond;  // order to last layer
  // How long a finished leg keeps its pages for a decode worker that does not release it.
  TimeNs leg_linger_ns = 10 * kSecond;
  TimeNs offer_interval_ns = 100 * kMillisecond;  // between offers of one request's new blocks
  int64_t retry_after_ms = 200;                   // the hint in a refusal for load
  size_t fences_max = 65'536;                     // ended requests whose attempts are remembered

  // Replicas.
  std::string failure_domain;  // of this worker
  int64_t row_bytes = 0;       // of one token in all layers
  int64_t append_bytes_max =
      static_cast<int64_t>(limits::kAppendBytesMax);  // unacknowledged, per store
  // An append goes once a branch has so many rows for it, or a row has waited so long: what an
  // append costs whatever it carries is shared by the rows of two steps.
  int64_t append_rows = 2;
  TimeNs append_linger_ns = 100 * kMillisecond;
  int32_t rebuilds_max = limits::kRebuildsMax;  // replicas begun anew at a time
  TimeNs store_retry_ns = kSecond;              // how long a lost store is not chosen
  TimeNs store_absent_ns = 2 * kSecond;         // not among the live stores for so long: lost
  TimeNs replica_stall_ns = 2 * kSecond;        // rows without a word of the store: told once more
  TimeNs store_full_retry_ns = kSecond;
  TimeNs store_refused_retry_ns = 50 * kMillisecond;

  // Restores. The rates hold until they are measured.
  TimeNs query_timeout_ns = 300 * kMillisecond;
  double link_bytes_per_s = 1e9;
  TimeNs link_latency_ns = kMillisecond;
  double prefill_tokens_per_s = 2'000;
  std::optional<Recovery> recovery;  // this one always, for measurements; empty: as planned

  // Copies outside the pool; both 0: none are made.
  int32_t swap_host_slots = 0;
  int32_t swap_disk_slots = 0;
  double swap_bytes_per_s = 4e9;  // until it is measured
  // The running set takes turns in so many parts; with slots, together they may exceed the pool.
  int32_t microbatches = 1;
  TimeNs swap_disk_retry_ns = 10 * kSecond;  // a disk that could not be written is left alone

  // Ends.
  size_t kept_max =
      limits::kKeptRequestsMax;             // ended requests whose tokens are kept for their window
  TimeNs failed_release_ns = 10 * kSecond;  // when the replicas of a failed request are let go
  TimeNs drain_flush_ns = 500 * kMillisecond;  // for replicas to catch up before a request moves

  // Measures what replication costs the thread that calls the core; decides nothing. Null: off.
  const Clock* stopwatch = nullptr;
  const Clock* cpu_stopwatch = nullptr;  // of the thread's processor time
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_CORE_SETTINGS_H_
