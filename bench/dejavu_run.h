// Paper mode: DejaVu's scheduling over stage processes. Static microbatches, D of them in flight, a
// finished one replaced at once, no chunked prefill; a killed stage is replaced by a spare process
// that was started before. One run per object; one thread, from which the stages are spawned.
//
// Mixed: every stage computes prompts and tokens. Split: some stages compute prompts, whose KV rows
// the token stages fetch. Replicate: stage x's rows are appended to stage (x + 1) mod D as they
// are computed, in the background; after a failure the spare fetches them back and each microbatch
// goes on at its own watermark. Without, all microbatches in flight begin again.
#ifndef REPRISE_BENCH_DEJAVU_RUN_H_
#define REPRISE_BENCH_DEJAVU_RUN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "coordinator/planner/split.h"

namespace reprise::bench {

struct DejavuKill {
  int stage = 0;
  int after_tokens = 0;  // of the first microbatch; 0: by time
  double at_s = 0;       // after the start
};

struct DejavuRunOptions {
  std::string program;  // becomes a stage by kStageMode
  int stages = 0;
  std::optional<planner::Split> split;  // of `stages`
  double prompt_s = 0;                  // Y
  double token_s = 0;                   // t
  int prompt_rows = 0;                  // of a microbatch
  int64_t row_bytes = 0;                // one row at one stage
  std::vector<int> new_tokens;          // of each microbatch
  bool replicate = false;               // mixed only
  std::vector<DejavuKill> kills;        // mixed only; in order; one that is due waits for recovery
  int64_t swap_bytes_per_s = 0;         // mixed only: 0 or the link of each stage
};

struct DejavuRunResult {
  double seconds = 0;  // from the first piece of work to the last token
  int64_t tokens = 0;
  int64_t steps_repeated = 0;   // token steps and prompts that a failure cost
  int64_t rows_restored = 0;    // to spares
  int64_t rows_from_peers = 0;  // held at the end, compared with what they should be
  int64_t rows_wrong = 0;
  int64_t transfers_retried = 0;  // after a connection was lost between living stages
  std::vector<double> detect_s;   // kill to its notice, of each
  std::vector<double> recover_s;  // kill to the last microbatch going on
};

StatusOr<DejavuRunResult> RunDejavu(const DejavuRunOptions& options);

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_DEJAVU_RUN_H_
