// The parts of the benchmark `replication`: what a replica costs the worker that has one, how far
// it lies behind, and what each step from naive copying to the product's way gains. Blocking; one
// thread.
#ifndef REPRISE_BENCH_REPLICATION_PARTS_H_
#define REPRISE_BENCH_REPLICATION_PARTS_H_

#include "bench/bench_main.h"

namespace reprise::bench {

// Pairs of runs of llama-160m with and without a replica (k = 1), in turn first.
Status MeasureReplicationCost(const BenchFlags& flags, Report& report);

// The watermark's distance when tokens go out, of timed workers with rows of 128 and 68.6 KiB.
Status MeasureReplicationLag(const BenchFlags& flags, Report& report);

// DejaVu's own table (Strati et al., ICML 2024, section 5.5): one batch with each level of
// streaming against none.
Status MeasureReplicationLevels(const BenchFlags& flags, Report& report);

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_REPLICATION_PARTS_H_
