// ucx_perftest's active messages between two processes on this host: what the transport alone does
// with payloads of a size. The yardstick of the KV stream's benchmarks. Blocking; any thread.
#ifndef REPRISE_BENCH_PERFTEST_H_
#define REPRISE_BENCH_PERFTEST_H_

#include <cstdint>
#include <string>

#include "common/status.h"
#include "common/subprocess.h"

namespace reprise::bench {

struct PerftestOptions {
  bool shared_memory = true;
  int64_t message_bytes = 0;
  int64_t total_bytes = int64_t{2} << 30;
};

// GB/s of ucp_am_bw. Shared memory alone cannot connect with -e (error mode PEER), so it runs there
// in mode NONE.
StatusOr<double> Perftest(const PerftestOptions& options);

// What the process printed; UNAVAILABLE when it did not end well.
StatusOr<std::string> OutputOf(const SubprocessOptions& options);

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_PERFTEST_H_
