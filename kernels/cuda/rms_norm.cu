// Sixteen threads share a row, thread i being lane i of the canonical 16-lane sum, so the bits are
// the CPU's. A row is one pass over memory for the sum and one from the cache for the result: the
// kernel is bound by memory for any model's width, and the chain of cols / 16 FMAs hides behind the
// other rows of the block.
#include "kernels/cuda/rms_norm.h"

#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/elements.h"

namespace reprise::cuda {
namespace {

constexpr int kLanes = 16;
constexpr int kRowsPerBlock = 16;

template <class X, class Y>
REPRISE_KERNEL(kLanes* kRowsPerBlock, 1)
RmsNormKernel(RmsNormArgs args) {
  const int64_t row = static_cast<int64_t>(BlockX()) * kRowsPerBlock + ThreadY();
  const bool active = row < args.rows;
  const X* x = static_cast<const X*>(args.x) + (active ? row : 0) * args.x_stride;
  const int lane = static_cast<int>(ThreadX());
  float sum = 0;
#pragma unroll 8
  for (int64_t k = lane; k < args.cols; k += kLanes) {
    const float v = Widen(x[k]);
    sum = Fma(v, v, sum);
  }
  sum = SumOf(sum, kLanes);
  if (!active) return;
  const float mean = Divide(sum, static_cast<float>(args.cols));
  const float scale = Divide(1.0F, Sqrt(mean + args.eps));
  Y* y = static_cast<Y*>(args.y) + row * args.y_stride;
#pragma unroll 8
  for (int64_t k = lane; k < args.cols; k += kLanes) {
    Narrow(Widen(x[k]) * scale * args.weight[k], y + k);
  }
}

}  // namespace

int RmsNorm(const RmsNormArgs& args, Stream stream) {
  if (args.rows == 0) return 0;
  const LaunchShape shape = {
      .blocks = {static_cast<uint32_t>((args.rows + kRowsPerBlock - 1) / kRowsPerBlock), 1, 1},
      .threads = {kLanes, kRowsPerBlock, 1}};
  if (args.x_bf16) {
    return args.y_bf16 ? Launch(shape, stream, RmsNormKernel<Bf16, Bf16>, args)
                       : Launch(shape, stream, RmsNormKernel<Bf16, float>, args);
  }
  return args.y_bf16 ? Launch(shape, stream, RmsNormKernel<float, Bf16>, args)
                     : Launch(shape, stream, RmsNormKernel<float, float>, args);
}

}  // namespace reprise::cuda
