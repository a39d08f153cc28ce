// Linear layers: the rate of large products, and how fast weights stream for few rows
// (DeepSeek-V2-Lite's shapes).
#include <string>

#include "bench/gpu/harness.h"
#include "kernels/cuda/gemm.h"

namespace reprise::bench::gpu {
namespace {

struct Shape {
  int64_t m;
  int64_t n;
  int64_t k;
};

double Seconds(Harness& harness, const Shape& s, int copies) {
  const cuda::Buffer x = harness.RandomBf16(static_cast<size_t>(s.m * s.k), 1);
  const cuda::Buffer y = harness.Memory(static_cast<size_t>(s.m * s.n) * 2);
  std::vector<cuda::Buffer> w;
  std::vector<cuda::GemmWeights> weights(static_cast<size_t>(copies));
  for (int i = 0; i < copies; ++i) {
    w.push_back(harness.RandomBf16(static_cast<size_t>(s.n * s.k), 2 + static_cast<uint64_t>(i)));
    harness.Check(cuda::MakeGemmWeights({w.back().as<uint16_t>(), 1, s.n, s.k, s.k, 0},
                                        &weights[static_cast<size_t>(i)]),
                  "weights");
  }
  return harness.Time([&](int i) {
    cuda::GemmArgs args;
    args.weights = &weights[static_cast<size_t>(i % copies)];
    args.x = {x.as<uint16_t>(), 1, s.m, s.k, s.k, 0};
    args.y = {.bf16 = y.as<uint16_t>(), .row_stride = s.n};
    return cuda::Gemm(args, nullptr);
  });
}

}  // namespace

void GemmCases(Harness& harness) {
  const Shape large = harness.tiny() ? Shape{130, 72, 128} : Shape{8192, 8192, 8192};
  const double operations = 2.0 * static_cast<double>(large.m) * static_cast<double>(large.n) *
                            static_cast<double>(large.k);
  harness.Add({.kernel = "gemm",
               .shape = std::to_string(large.m) + " x " + std::to_string(large.n) + " x " +
                        std::to_string(large.k),
               .value = operations / Seconds(harness, large, 1) / 1e12,
               .unit = "TFLOP/s",
               .floor = 790,
               .peer = "gemm_large"});
  // Weights of many layers, so that they come from memory.
  for (const int64_t m : {1, 16, 128}) {
    const Shape s = harness.tiny() ? Shape{m, 64, 128} : Shape{m, 10944, 2048};
    const double bytes = static_cast<double>(s.n * s.k) * 2;
    harness.Add({.kernel = "gemm",
                 .shape = std::to_string(s.m) + " rows, weights " + std::to_string(s.n) + " x " +
                          std::to_string(s.k),
                 .value = bytes / Seconds(harness, s, harness.tiny() ? 2 : 16) / 1e12,
                 .unit = "TB/s",
                 .floor = harness.CopyBytesPerSecond() / 1e12,
                 .peer = "gemm_" + std::to_string(m)});
  }
}

}  // namespace reprise::bench::gpu
