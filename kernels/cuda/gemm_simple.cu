// A thread an element of y: k ascending in one FMA chain. Neighbouring threads have neighbouring weight
// rows and the same row of x, so that at least x comes from the cache.
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/gemm.h"

namespace reprise::cuda {
namespace {

constexpr int kThreads = 128;

struct KernelArgs {
  GemmMatrix weights;
  GemmMatrix x;
  GemmOutput y;
  GemmGroups groups;
};

// Whose row it is; -1: nobody's.
REPRISE_DEVICE int64_t ExpertOf(const KernelArgs& args, int64_t row) {
  for (int64_t e = 0; e < args.weights.batch; ++e) {
    if (row >= args.groups.first_row[e] && row < args.groups.first_row[e + 1]) return e;
  }
  return -1;
}

REPRISE_KERNEL(kThreads, 1) SimpleKernel(KernelArgs args) {
  const int64_t n = static_cast<int64_t>(BlockX()) * kThreads + ThreadX();
  const int64_t row = BlockY();
  const int64_t batch = BlockZ();
  if (n >= args.weights.rows) return;
  const int64_t owner = args.groups.first_row == nullptr ? batch : ExpertOf(args, row);
  if (owner < 0) return;
  const auto* w = reinterpret_cast<const Bf16*>(args.weights.data) +
                  owner * args.weights.batch_stride + n * args.weights.row_stride;
  const auto* x = reinterpret_cast<const Bf16*>(args.x.data) + batch * args.x.batch_stride +
                  row * args.x.row_stride;
  float sum = 0;
  for (int64_t k = 0; k < args.weights.cols; k += 8) {
    const Words a = Load16(x + k);
    const Words b = Load16(w + k);
    REPRISE_UNROLL
    for (int i = 0; i < 4; ++i) {
      sum = Fma(LowOf(a.w[i]), LowOf(b.w[i]), sum);
      sum = Fma(HighOf(a.w[i]), HighOf(b.w[i]), sum);
    }
  }
  const int64_t at = args.y.At(batch, row, n);
  if (args.y.bias != nullptr) sum = sum + args.y.bias[n];
  if (args.y.residual != nullptr) sum = sum + args.y.residual[at];
  if (args.y.f32 != nullptr) args.y.f32[at] = sum;
  if (args.y.bf16 != nullptr) args.y.bf16[at] = ToBf16(sum).bits;
}

}  // namespace

bool GemmFits(const GemmArgs& args) {
  const GemmWeights& w = *args.weights;
  const bool grouped = args.groups.first_row != nullptr;
  return args.x.cols == w.k && w.n % 8 == 0 && w.k % 8 == 0 && args.x.row_stride % 8 == 0 &&
         args.x.batch_stride % 8 == 0 && args.y.row_stride % 8 == 0 &&
         args.y.column_group % 8 == 0 &&
         (grouped ? args.x.batch == 1 : args.x.batch == w.batch) &&
         (args.y.residual == nullptr || args.x.batch == 1) &&
         (args.y.f32 != nullptr || args.y.bf16 != nullptr);
}

int GemmSimple(const GemmArgs& args, Stream stream) {
  if (!GemmFits(args)) return kErrorInvalidValue;
  if (args.x.rows == 0) return 0;
  return Launch({.blocks = {static_cast<uint32_t>((args.weights->n + kThreads - 1) / kThreads),
                            static_cast<uint32_t>(args.x.rows),
                            static_cast<uint32_t>(args.x.batch)},
                 .threads = {kThreads, 1, 1}},
                stream, SimpleKernel,
                KernelArgs{args.weights->matrix, args.x, args.y, args.groups});
}

}  // namespace reprise::cuda
