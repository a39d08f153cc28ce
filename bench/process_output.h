// What a program prints, run to its end. One thread.
#ifndef REPRISE_BENCH_PROCESS_OUTPUT_H_
#define REPRISE_BENCH_PROCESS_OUTPUT_H_

#include <string>

#include "common/status.h"
#include "common/subprocess.h"

namespace reprise::bench {

// Its standard output; `options.out` is not looked at. UNAVAILABLE names the program, how it ended
// and what it had printed, when it failed or did not end within two minutes of closing its output.
StatusOr<std::string> OutputOf(const SubprocessOptions& options);

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_PROCESS_OUTPUT_H_
