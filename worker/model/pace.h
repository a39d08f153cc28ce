// How much work goes between two signs of life of a step. A layer over a long context takes seconds
// where its chunk is not the reason: expanding all keys before it, or one row against them. The
// parts of a model cut such work into pieces and count what they did here. One thread.
//
// Invariant: two ticks are at most two pieces apart, a quarter of a second on a slow machine.
#ifndef REPRISE_WORKER_MODEL_PACE_H_
#define REPRISE_WORKER_MODEL_PACE_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>

#include "kernels/ops.h"

namespace reprise::worker {

// A layer's share of a step, and the longest silence of one.
inline constexpr double kLayerSeconds = 0.25;

// Multiply-adds: a quarter of what one core of a 2023 server reached in f32, which leaves room for
// slower clocks and busy neighbours.
inline double SlowMacsPerSecond(kernels::Isa isa, int threads) {
  const double core = isa == kernels::Isa::kAvx512 ? 11e9 : isa == kernels::Isa::kAvx2 ? 7e9 : 1e8;
  return core * threads;
}

class Pace {
 public:
  // `piece` in multiply-adds.
  explicit Pace(int64_t piece) : piece_(piece) {}
  static int64_t PieceOf(kernels::Isa isa, int threads) {
    return static_cast<int64_t>(SlowMacsPerSecond(isa, threads) * kLayerSeconds / 2);
  }

  void SetTick(std::function<void()> tick) { tick_ = std::move(tick); }

  // Units of `macs` each that one piece holds, at least one and at most all.
  int64_t UnitsAtOnce(int64_t macs, int64_t all) const {
    return std::clamp<int64_t>(piece_ / std::max<int64_t>(macs, 1), 1, std::max<int64_t>(all, 1));
  }
  int64_t piece() const { return piece_; }

  // So much was done since the last call.
  void Did(int64_t macs) {
    done_ += macs;
    if (done_ < piece_) return;
    done_ = 0;
    if (tick_) tick_();
  }

 private:
  const int64_t piece_;
  int64_t done_ = 0;
  std::function<void()> tick_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_PACE_H_
