// The linear layer. One output is one 16-lane accumulator along k (the canonical form), so the
// register tile is kTileM rows of x by 8 rows of W, each an independent chain; the lane trees of a
// tile are done together by transposing. Weights are streamed once per block of x rows, in the
// order they lie in memory.
#ifndef REPRISE_KERNELS_CPU_LINEAR_INL_H_
#define REPRISE_KERNELS_CPU_LINEAR_INL_H_

#include "kernels/cpu/math_inl.h"
#include "kernels/packed_weights.h"

namespace reprise::kernels::REPRISE_KERNEL_ISA {

inline constexpr int64_t kBlockRows = PackedWeights::kRows;
inline constexpr int64_t kLine = PackedWeights::kLineBytes;

// x rows as lines: row r at data + r * stride.
struct PackedRows {
  const std::byte* data;
  int64_t stride;
};

// Ahead of the stream of a single row, where memory is the limit; in larger tiles prefetching cost
// more than it gave.
inline constexpr int64_t kPrefetchBytes = 4096;

// sums[r][8] = lane trees of the dot products of M rows of x with the 8 rows of one weight block,
// over `lines` consecutive lines.
template <class Line, int M>
static inline void DotTile(const std::byte* w, PackedRows x, int64_t lines, float (*sums)[8]) {
  V acc[M * 8];
#pragma clang loop unroll(full)
  for (int sub = 0; sub < 8; sub += kSubRows) {
    V part[M][kSubRows];
#pragma clang loop unroll(full)
    for (int r = 0; r < M; ++r) {
#pragma clang loop unroll(full)
      for (int n = 0; n < kSubRows; ++n) part[r][n] = V::Zero();
    }
    for (int64_t l = 0; l < lines; ++l) {
      const std::byte* lw = w + (l * kBlockRows + sub) * kLine;
      Line lx[M];
#pragma clang loop unroll(full)
      for (int r = 0; r < M; ++r) lx[r] = Line::Load(x.data + r * x.stride + l * kLine);
#pragma clang loop unroll(full)
      for (int n = 0; n < kSubRows; ++n) {
        const Line line = Line::Load(lw + n * kLine);
        if (M == 1) __builtin_prefetch(lw + n * kLine + kPrefetchBytes);
#pragma clang loop unroll(full)
        for (int r = 0; r < M; ++r) part[r][n] = DotStep(part[r][n], line, lx[r]);
      }
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < M; ++r) {
#pragma clang loop unroll(full)
      for (int n = 0; n < kSubRows; ++n) acc[r * 8 + sub + n] = part[r][n];
    }
  }
  int r = 0;
  for (; r + 2 <= M; r += 2) ReduceAdd16(acc + r * 8, sums[r]);
  if (r < M) ReduceAdd8(acc + r * 8, sums[r]);
}

// The slices of k, as ranges of lines.
struct Slices {
  int64_t count;
  int64_t lines_per_slice;
  int64_t lines;
};

// sums[0][r] = the slices' sums of row r, joined by the binary tree.
static inline void JoinSlices(float (*sums)[kTileM][8], int64_t count, int r) {
  for (int64_t stride = 1; stride < count; stride *= 2) {
    for (int64_t left = 0; left < count; left += 2 * stride) {
      for (int n = 0; n < 8; ++n) sums[left][r][n] = sums[left][r][n] + sums[left + stride][r][n];
    }
  }
}

// Where a tile stands: rows of x from `row`, weight block `block`.
struct TileAt {
  int64_t row;
  int64_t block;
};

// M rows of x against one block, bias and residual included. Returns M.
template <class Line, int M>
static inline int64_t OutputTile(const LinearArgs& args, PackedRows x, Slices slices, TileAt at) {
  alignas(64) float sums[kRowParallelSlices][kTileM][8];
  const std::byte* w = args.weights->block(at.block);
  for (int64_t s = 0; s < slices.count; ++s) {
    const int64_t first = MinOf(s * slices.lines_per_slice, slices.lines);
    const int64_t lines = MinOf(slices.lines_per_slice, slices.lines - first);
    DotTile<Line, M>(w + first * kBlockRows * kLine,
                     {x.data + at.row * x.stride + first * kLine, x.stride}, lines, sums[s]);
  }
  const int64_t n0 = at.block * kBlockRows;
  const int64_t columns = MinOf(kBlockRows, args.weights->n() - n0);
  for (int r = 0; r < M; ++r) {
    float* y = args.y.row(at.row + r) + n0;
    JoinSlices(sums, slices.count, r);
    const float* residual =
        args.residual.data == nullptr ? nullptr : args.residual.row(at.row + r) + n0;
    for (int n = 0; n < columns; ++n) {
      float sum = sums[0][r][n];
      if (args.bias != nullptr) sum = sum + args.bias[n0 + n];
      if (residual != nullptr) sum = sum + residual[n];
      y[n] = sum;
    }
  }
  return M;
}

// Rows [row, end) against one block; a remainder of four is two tiles of two.
template <class Line>
static void OutputRows(const LinearArgs& args, PackedRows x, Slices slices, TileAt at,
                       int64_t end) {
  while (at.row < end) {
    const int64_t left = end - at.row;
    if (left >= kTileM && (kTileM < 3 || left != 4)) {
      at.row += OutputTile<Line, kTileM>(args, x, slices, at);
    } else if (left >= 2) {
      at.row += OutputTile<Line, 2>(args, x, slices, at);
    } else {
      at.row += OutputTile<Line, 1>(args, x, slices, at);
    }
  }
}

// x in the weights' element type, rows padded with zeros to k_padded.
static PackedRows PackX(const Exec& exec, const LinearArgs& args) {
  const PackedWeights& w = *args.weights;
  const int64_t stride = w.k_padded() * SizeOf(w.dtype());
  For(exec, args.x.rows, args.x.rows * w.k(), [&](int64_t r) {
    std::byte* dst = exec.scratch + r * stride;
    ConvertRow(args.x.row(r), DType::kF32, dst, w.dtype(), w.k());
    std::memset(dst + w.k() * SizeOf(w.dtype()), 0,
                static_cast<size_t>((w.k_padded() - w.k()) * SizeOf(w.dtype())));
  });
  return {exec.scratch, stride};
}

template <class Line>
static void LinearAs(const Exec& exec, const LinearArgs& args) {
  constexpr int64_t kRowsPerTask = 48;  // x rows kept in the L2 cache while the weights pass
  const PackedWeights& w = *args.weights;
  const int64_t m = args.x.rows;
  const PackedRows x = PackX(exec, args);
  const int64_t per_line = kLine / SizeOf(w.dtype());
  Slices slices{1, w.k_padded() / per_line, w.k_padded() / per_line};
  if (args.k_slices != 1) {
    slices.count = args.k_slices;
    slices.lines_per_slice = (args.slice_k > 0 ? args.slice_k : SliceK(w.k())) / per_line;
  }
  const int64_t row_tasks = (m + kRowsPerTask - 1) / kRowsPerTask;
  For(exec, row_tasks * w.blocks(), m * w.n() * w.k() / 8, [&](int64_t task) {
    const int64_t row = task / w.blocks() * kRowsPerTask;
    OutputRows<Line>(args, x, slices, {row, task % w.blocks()}, MinOf(m, row + kRowsPerTask));
  });
}

static void Linear(const Exec& exec, const LinearArgs& args) {
  DenormalsOff denormals_off;
  if (args.weights->dtype() == DType::kBF16) return LinearAs<LineBf16>(exec, args);
  LinearAs<LineF32>(exec, args);
}

}  // namespace reprise::kernels::REPRISE_KERNEL_ISA

#endif  // REPRISE_KERNELS_CPU_LINEAR_INL_H_
