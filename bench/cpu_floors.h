// What this machine can do at all, measured beside what is compared with it: reading memory, and
// multiply-adds in registers. Neighbours move these figures, so measure again and again in turn
// with the work and keep the best of both. One thread; it owns its compute threads.
#ifndef REPRISE_BENCH_CPU_FLOORS_H_
#define REPRISE_BENCH_CPU_FLOORS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace reprise::bench {

// Of all threads together.
struct CpuRates {
  double read_bytes_per_s = 0;
  double f32_macs_per_s = 0;   // fused multiply-adds
  double bf16_macs_per_s = 0;  // vdpbf16ps where there is one, else as f32
};

struct Work {
  double read_bytes = 0;
  double f32_macs = 0;
  double bf16_macs = 0;
};
// The least time the work can take, seconds: reading and computing overlap, multiply-adds of both
// kinds share their units.
double FloorSeconds(const CpuRates& rates, const Work& work);

class CpuFloors {
 public:
  CpuFloors(kernels::Isa isa, int threads);
  // Takes about 50 ms.
  void Measure();
  const CpuRates& best() const { return best_; }

 private:
  void MeasureRead(size_t window);
  void MeasureMacs();

  const kernels::Isa isa_;
  kernels::ThreadPool pool_;
  std::vector<uint64_t> memory_;
  std::vector<double> sinks_;  // one a thread: results are used
  CpuRates best_;
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_CPU_FLOORS_H_
