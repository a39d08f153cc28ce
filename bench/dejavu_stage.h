// One pipeline stage of the paper-mode benchmark, a process of its own: timed work in FIFO order,
// the KV rows of that work, and their way to and from other stages over the KV stream. Runs until
// its controller is gone.
#ifndef REPRISE_BENCH_DEJAVU_STAGE_H_
#define REPRISE_BENCH_DEJAVU_STAGE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"

namespace reprise::bench {

// The first argument that makes the benchmark's binary a stage.
inline constexpr char kStageMode[] = "stage";

struct StageOptions {
  std::string controller;  // socket name
  int32_t slot = 0;        // which process of the run this is
  int64_t rows_max = 0;    // of a sequence
  int64_t row_bytes = 0;
  int64_t swap_bytes_per_s = 0;  // link between host and device; 0: no swapping
  int64_t swap_sequences = 0;    // that take turns
  int64_t swap_space = 0;        // of the rows that swap

  std::vector<std::string> Flags() const;
};

// `args` without the mode. Returns the process's exit status.
int StageMain(const std::vector<std::string>& args);

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_DEJAVU_STAGE_H_
