#include "bench/cpu_floors.h"

#include <immintrin.h>

#include <algorithm>
#include <numeric>
#include <span>

#include "common/clock.h"

namespace reprise::bench {
namespace {

constexpr size_t kMemoryBytes = size_t{256} << 20;  // far more than the caches hold
constexpr size_t kWindows = 4;                      // each more than the caches hold
constexpr int kTries = 8;                           // short ones: a quiet moment is enough
constexpr int64_t kRounds = 100'000;
constexpr int kSums = 12;  // in flight: more than latency times units, fewer than registers

struct Loop {
  double (*run)(int64_t rounds);
  int64_t macs_per_round;
};

double FmaScalar(int64_t rounds) {
  float sums[kSums] = {};
  for (int64_t i = 0; i < rounds; ++i) {
    for (float& sum : sums) sum = sum * 0.999F + 0.001F;
  }
  return std::accumulate(sums, sums + kSums, 0.0);
}

__attribute__((target("avx2,fma"))) double FmaAvx2(int64_t rounds) {
  __m256 sums[kSums];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  const __m256 a = _mm256_set1_ps(0.999F);
  const __m256 b = _mm256_set1_ps(0.001F);
  for (int64_t i = 0; i < rounds; ++i) {
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(sum, a, b);
  }
  double total = 0;
  for (const __m256& sum : sums) total += static_cast<double>(_mm256_cvtss_f32(sum));
  return total;
}

__attribute__((target("avx512f"))) double FmaAvx512(int64_t rounds) {
  __m512 sums[kSums];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const __m512 a = _mm512_set1_ps(0.999F);
  const __m512 b = _mm512_set1_ps(0.001F);
  for (int64_t i = 0; i < rounds; ++i) {
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(sum, a, b);
  }
  double total = 0;
  for (const __m512& sum : sums) total += static_cast<double>(_mm512_cvtss_f32(sum));
  return total;
}

__attribute__((target("avx512f,avx512bf16"))) double DotAvx512(int64_t rounds) {
  __m512 sums[kSums];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5F), _mm512_set1_ps(-0.5F));
  const __m512bh b = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.25F), _mm512_set1_ps(0.25F));
  for (int64_t i = 0; i < rounds; ++i) {
    for (__m512& sum : sums) sum = _mm512_dpbf16_ps(sum, a, b);
  }
  double total = 0;
  for (const __m512& sum : sums) total += static_cast<double>(_mm512_cvtss_f32(sum));
  return total;
}

Loop F32Loop(kernels::Isa isa) {
  switch (isa) {
    case kernels::Isa::kAvx512:
      return {FmaAvx512, kSums * 16};
    case kernels::Isa::kAvx2:
      return {FmaAvx2, kSums * 8};
    case kernels::Isa::kScalar:
      break;
  }
  return {FmaScalar, kSums};
}

Loop Bf16Loop(kernels::Isa isa) {
  return isa == kernels::Isa::kAvx512 ? Loop{DotAvx512, kSums * 32} : F32Loop(isa);
}

}  // namespace

double FloorSeconds(const CpuRates& rates, const Work& work) {
  return std::max(work.read_bytes / rates.read_bytes_per_s,
                  work.f32_macs / rates.f32_macs_per_s + work.bf16_macs / rates.bf16_macs_per_s);
}

CpuFloors::CpuFloors(kernels::Isa isa, int threads)
    : isa_(isa),
      pool_(threads),
      memory_(kMemoryBytes / sizeof(uint64_t), 1),
      sinks_(static_cast<size_t>(threads)) {}

void CpuFloors::Measure() {
  for (size_t window = 0; window < kWindows; ++window) MeasureRead(window);
  for (int i = 0; i < kTries; ++i) MeasureMacs();
}

void CpuFloors::MeasureRead(size_t window) {
  const std::span<const uint64_t> memory =
      std::span(memory_).subspan(memory_.size() / kWindows * window, memory_.size() / kWindows);
  const size_t part = memory.size() / sinks_.size();
  const TimeNs start = RealClock().NowNs();
  pool_.ParallelFor(pool_.threads(), [&](int64_t thread) {
    const auto first = memory.begin() + static_cast<std::ptrdiff_t>(part) * thread;
    const uint64_t sum =
        std::accumulate(first, first + static_cast<std::ptrdiff_t>(part), uint64_t{0});
    sinks_[static_cast<size_t>(thread)] = static_cast<double>(sum);
  });
  const double seconds = SecondsFromNs(RealClock().NowNs() - start);
  best_.read_bytes_per_s =
      std::max(best_.read_bytes_per_s, static_cast<double>(memory.size_bytes()) / seconds);
}

void CpuFloors::MeasureMacs() {
  const auto rate = [&](const Loop& loop) {
    const TimeNs start = RealClock().NowNs();
    pool_.ParallelFor(pool_.threads(), [&](int64_t thread) {
      sinks_[static_cast<size_t>(thread)] = loop.run(kRounds);
    });
    const double seconds = SecondsFromNs(RealClock().NowNs() - start);
    return static_cast<double>(kRounds * loop.macs_per_round * pool_.threads()) / seconds;
  };
  best_.f32_macs_per_s = std::max(best_.f32_macs_per_s, rate(F32Loop(isa_)));
  best_.bf16_macs_per_s = std::max(best_.bf16_macs_per_s, rate(Bf16Loop(isa_)));
}

}  // namespace reprise::bench
