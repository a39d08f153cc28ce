// The frame of every benchmark: flags, one report, errors that end in a failed bar. One thread.
#ifndef REPRISE_BENCH_BENCH_MAIN_H_
#define REPRISE_BENCH_BENCH_MAIN_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "bench/report.h"
#include "common/status.h"

namespace reprise::bench {

struct BenchFlags {
  std::string reprise;              // the binary
  std::string data;                 // the shared data folder; empty when there is none
  std::string models;               // the project's models folder
  std::string cache_dir;            // made models are kept here from run to run
  bool long_run = false;            // more repetitions
  std::string peer;                 // a build folder of llama.cpp, to compare with; empty: none
  std::string device = "emulated";  // of workers: gpu or emulated
  bool unproven_kernels = false;    // on it
  std::string golden;               // file of recorded answers
  bool record = false;              // the answers there
};

// Returns the exit status of the benchmark. An error of `run` is printed and fails the bar
// "ran_to_the_end".
int BenchMain(absl::string_view name, int argc, char** argv,
              const std::function<Status(const BenchFlags&, Report&)>& run);

// The folder of a made model, written on first use. `sizes` are flags of make-model that put others
// in the preset's place.
StatusOr<std::string> MadeModel(const BenchFlags& flags, const std::string& preset,
                                const std::vector<std::string>& sizes = {});

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_BENCH_MAIN_H_
