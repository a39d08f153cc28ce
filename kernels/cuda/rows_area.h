// How the threads of a kernel lie over rows when each takes some columns of one row: as many side
// by side along a row as it is wide, the rest on further rows, so that neither narrow nor wide rows
// leave threads idle.
#ifndef REPRISE_KERNELS_CUDA_ROWS_AREA_H_
#define REPRISE_KERNELS_CUDA_ROWS_AREA_H_

#include "kernels/cuda/device/device.h"
#include "kernels/cuda/device/launch.h"

namespace reprise::cuda {

inline constexpr uint32_t kAreaThreads = 256;

// How a block's threads lie over the rows: 2^shift of them along the columns.
struct Area {
  int64_t rows = 0;
  int64_t cols = 0;
  int shift = 0;
};

// fn(row, first column, columns up to `kWidth`).
template <int kWidth, class F>
REPRISE_DEVICE void ForArea(const Area& area, F fn) {
  const uint32_t along = ThreadX() & ((1U << area.shift) - 1);
  const int64_t row =
      static_cast<int64_t>(BlockX()) * (kAreaThreads >> area.shift) + (ThreadX() >> area.shift);
  const int64_t col = ((static_cast<int64_t>(BlockY()) << area.shift) + along) * kWidth;
  if (row >= area.rows || col >= area.cols) return;
  const int64_t left = area.cols - col;
  fn(row, col, left < kWidth ? left : kWidth);
}

// Precondition: rows and columns fit a grid, 2^31 rows and 2^16 blocks of columns.
template <int kWidth, class Args>
int StartArea(void (*kernel)(Args, Area), const Args& args, int64_t rows, int64_t cols,
              Stream stream) {
  if (rows <= 0 || cols <= 0) return 0;
  Area area{rows, cols, 0};
  const int64_t wanted = (cols + kWidth - 1) / kWidth;
  while ((kAreaThreads >> area.shift) > 1 && (int64_t{1} << area.shift) < wanted) ++area.shift;
  const int64_t rows_a_block = kAreaThreads >> area.shift;
  const LaunchShape shape = {
      .blocks = {static_cast<uint32_t>((rows + rows_a_block - 1) / rows_a_block),
                 static_cast<uint32_t>((wanted + (int64_t{1} << area.shift) - 1) >> area.shift), 1},
      .threads = {kAreaThreads, 1, 1}};
  return Launch(shape, stream, kernel, args, area);
}

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_ROWS_AREA_H_
