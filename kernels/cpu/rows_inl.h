// The operations on rows: norm, rope, SwiGLU, embedding, conversions, cache writes.
#ifndef REPRISE_KERNELS_CPU_ROWS_INL_H_
#define REPRISE_KERNELS_CPU_ROWS_INL_H_

#include "kernels/cpu/math_inl.h"

namespace reprise::kernels::REPRISE_KERNEL_ISA {

// Calls fn(V::Load-like chunk index, count) over a row; count is 16 except for a tail.
template <class F>
static inline void Chunks(int64_t n, F&& fn) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) fn(i, int64_t{16});
  if (i < n) fn(i, n - i);
}
static inline V LoadChunk(const float* p, int64_t n) {
  return n == 16 ? V::Load(p) : V::LoadN(p, n);
}
static inline void StoreChunk(V v, float* p, int64_t n) {
  if (n == 16) return v.Store(p);
  v.StoreN(p, n);
}

static void RmsNorm(const Exec& exec, ConstF32 x, const float* weight, float eps, F32 y) {
  DenormalsOff denormals_off;
  For(exec, x.rows, x.rows * x.cols, [&](int64_t r) {
    const float* in = x.row(r);
    float* out = y.row(r);
    V squares = V::Zero();
    Chunks(x.cols, [&](int64_t i, int64_t n) {
      const V v = LoadChunk(in + i, n);
      squares = Fma(v, v, squares);
    });
    const float mean = ReduceAdd(squares) / static_cast<float>(x.cols);
    const V scale = V::Set1(1.0f / __builtin_sqrtf(mean + eps));
    Chunks(x.cols, [&](int64_t i, int64_t n) {
      const V scaled = Mul(LoadChunk(in + i, n), scale);
      StoreChunk(Mul(scaled, LoadChunk(weight + i, n)), out + i, n);
    });
  });
}

static void AddRows(const Exec& exec, const AddArgs& args) {
  DenormalsOff denormals_off;
  const F32 y = args.y;
  For(exec, y.rows, y.rows * y.cols, [&](int64_t r) {
    Chunks(y.cols, [&](int64_t i, int64_t n) {
      V sum = LoadChunk(args.x.row(r) + i, n);
      if (args.bias != nullptr) sum = Add(sum, LoadChunk(args.bias + i, n));
      if (args.residual.data != nullptr) sum = Add(sum, LoadChunk(args.residual.row(r) + i, n));
      StoreChunk(sum, y.row(r) + i, n);
    });
  });
}

static void RopeApply(const Exec& exec, const RopeTable& table, int64_t head_dim, F32 x) {
  DenormalsOff denormals_off;
  const int64_t heads = x.cols / head_dim;
  const int64_t half = table.half;
  For(exec, x.rows, x.rows * x.cols, [&](int64_t r) {
    const float* cos = table.cos + r * half;
    const float* sin = table.sin + r * half;
    for (int64_t h = 0; h < heads; ++h) {
      float* a = x.row(r) + h * head_dim;
      float* b = a + half;
      Chunks(half, [&](int64_t i, int64_t n) {
        const V va = LoadChunk(a + i, n);
        const V vb = LoadChunk(b + i, n);
        const V c = LoadChunk(cos + i, n);
        const V s = LoadChunk(sin + i, n);
        StoreChunk(Sub(Mul(va, c), Mul(vb, s)), a + i, n);
        StoreChunk(Add(Mul(vb, c), Mul(va, s)), b + i, n);
      });
    }
  });
}

static void Swiglu(const Exec& exec, ConstF32 gate, ConstF32 up, F32 y) {
  DenormalsOff denormals_off;
  For(exec, y.rows, y.rows * y.cols, [&](int64_t r) {
    Chunks(y.cols, [&](int64_t i, int64_t n) {
      const V g = LoadChunk(gate.row(r) + i, n);
      const V e = Exp(Sub(V::Zero(), g));
      const V silu = Div(g, Add(V::Set1(1.0f), e));
      StoreChunk(Mul(silu, LoadChunk(up.row(r) + i, n)), y.row(r) + i, n);
    });
  });
}

static void Embed(const Exec& exec, ConstMatrix table, const int32_t* ids, F32 y) {
  DenormalsOff denormals_off;
  For(exec, y.rows, y.rows * y.cols, [&](int64_t r) {
    const char* src = static_cast<const char*>(table.data) +
                      static_cast<int64_t>(ids[r]) * table.row_stride * SizeOf(table.dtype);
    ConvertRow(src, table.dtype, y.row(r), DType::kF32, y.cols);
  });
}

static void Convert(const void* src, DType from, void* dst, DType to, int64_t n) {
  DenormalsOff denormals_off;
  ConvertRow(src, from, dst, to, n);
}

// Where the two parts of a cached row of head 0 lie; heads follow each other by the strides.
struct KvRowParts {
  std::byte* first;
  std::byte* second;
};
struct KvRowWidths {
  explicit KvRowWidths(const PagedKv& kv)
      : first(FirstPartDim(kv)),
        second(SecondPartDim(kv)),
        first_stride(kv.block_tokens * first * SizeOf(kv.dtype)),
        second_stride(kv.block_tokens * second * SizeOf(kv.dtype)) {}
  int64_t first, second;                // elements
  int64_t first_stride, second_stride;  // bytes from one head to the next
};
static inline KvRowParts FindRow(const PagedKv& kv, const KvRowWidths& w, const int32_t* page_table,
                                 int64_t row) {
  std::byte* segment = kv.base + page_table[row / kv.block_tokens] * kv.page_stride_bytes +
                       kv.layer * SegmentBytes(kv);
  const int64_t slot = row % kv.block_tokens * SizeOf(kv.dtype);
  return {segment + slot * w.first, segment + kv.kv_heads * w.first_stride + slot * w.second};
}

static void WriteKv(const KvWriteArgs& args) {
  DenormalsOff denormals_off;
  const PagedKv& kv = args.kv;
  const KvRowWidths w(kv);
  for (int64_t r = 0; r < args.first.rows; ++r) {
    const KvRowParts at = FindRow(kv, w, args.page_table, args.first_row + r);
    for (int64_t h = 0; h < kv.kv_heads; ++h) {
      ConvertRow(args.first.row(r) + h * w.first, DType::kF32, at.first + h * w.first_stride,
                 kv.dtype, w.first);
      ConvertRow(args.second.row(r) + h * w.second, DType::kF32, at.second + h * w.second_stride,
                 kv.dtype, w.second);
    }
  }
}

static void ReadKv(const Exec& exec, const KvReadArgs& args) {
  const PagedKv& kv = args.kv;
  const KvRowWidths w(kv);
  For(exec, args.first.rows, args.first.rows * kv.kv_heads * (w.first + w.second), [&](int64_t r) {
    const KvRowParts at = FindRow(kv, w, args.page_table, args.first_row + r);
    for (int64_t h = 0; h < kv.kv_heads; ++h) {
      ConvertRow(at.first + h * w.first_stride, kv.dtype, args.first.row(r) + h * w.first,
                 DType::kF32, w.first);
      ConvertRow(at.second + h * w.second_stride, kv.dtype, args.second.row(r) + h * w.second,
                 DType::kF32, w.second);
    }
  });
}

}  // namespace reprise::kernels::REPRISE_KERNEL_ISA

#endif  // REPRISE_KERNELS_CPU_ROWS_INL_H_
