// The second half of the benchmark `corrupt`: a cluster serves while rows of its live requests are
// damaged in the memory of all its stores and workers are killed, so that what is restored is
// damaged. One thread.
#ifndef REPRISE_BENCH_DAMAGED_STORES_H_
#define REPRISE_BENCH_DAMAGED_STORES_H_

#include "bench/bench_main.h"

namespace reprise::bench {

Status ServeFromDamagedStores(const BenchFlags& flags, Report& report);

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_DAMAGED_STORES_H_
