// A warp for each (row, head): three passes of memory, nothing else.
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/merge_partials.h"
#include "kernels/cuda/numerics.h"

namespace reprise::cuda {
namespace {

constexpr int kWarps = 8;

REPRISE_KERNEL(32 * kWarps, 1)
MergeKernel(MergePartialsArgs args) {
  const int64_t i = static_cast<int64_t>(BlockX()) * kWarps + Warp();
  if (i >= args.rows * args.heads) return;
  const MergeWeights w = WeightsOf(args.left.lse2[i], args.right.lse2[i]);
  SyncWarp();  // the results may lie where these did
  for (int64_t e = Lane(); e < args.head_dim; e += 32) {
    const int64_t at = i * args.head_dim + e;
    const float x = Merged(w, args.left.out[at], args.right.out[at]);
    if (args.out_bf16) {
      static_cast<Bf16*>(args.out)[at] = ToBf16(x);
    } else {
      static_cast<float*>(args.out)[at] = x;
    }
  }
  if (Lane() != 0) return;
  if (args.lse2 != nullptr) args.lse2[i] = w.lse2;
  if (args.lse != nullptr) args.lse[i] = w.lse2 * kLn2;
}

}  // namespace

int MergePartials(const MergePartialsArgs& args, Stream stream) {
  if (args.rows == 0) return 0;
  if (args.heads <= 0 || args.head_dim <= 0 || args.head_dim % 32 != 0) return kErrorInvalidValue;
  const int64_t blocks = (args.rows * args.heads + kWarps - 1) / kWarps;
  return Launch({.blocks = {static_cast<uint32_t>(blocks), 1, 1}, .threads = {32 * kWarps, 1, 1}},
                stream, MergeKernel, args);
}

}  // namespace reprise::cuda
