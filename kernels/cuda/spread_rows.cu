// A thread moves 16 bytes to all heads; bound by what is written.
#include "kernels/cuda/spread_rows.h"

#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/kv_pool.h"

namespace reprise::cuda {
namespace {

constexpr uint32_t kThreads = 256;

REPRISE_KERNEL(kThreads, 1) SpreadKernel(SpreadRowsArgs args) {
  const int64_t i = static_cast<int64_t>(BlockX()) * kThreads + ThreadX();
  const int pieces = args.dim / 8;
  const int64_t row = i / pieces;
  const int64_t piece = i % pieces;
  if (row >= args.rows) return;
  const Words words = Load16(args.x + row * args.x_stride + piece * 8);
  uint16_t* to = args.y + row / kPageRows * args.page_stride + row % kPageRows * args.row_stride +
                 piece * 8;
  for (int h = 0; h < args.heads; ++h) Store16(to + h * args.head_stride, words);
}

}  // namespace

int SpreadRows(const SpreadRowsArgs& args, Stream stream) {
  if (args.dim % 8 != 0) return kErrorInvalidValue;
  const int64_t threads = args.rows * (args.dim / 8);
  if (threads == 0) return 0;
  return Launch({.blocks = {static_cast<uint32_t>((threads + kThreads - 1) / kThreads), 1, 1},
                 .threads = {kThreads, 1, 1}},
                stream, SpreadKernel, args);
}

}  // namespace reprise::cuda
