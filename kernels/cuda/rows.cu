// All of these are bound by memory: each element is read and written once, by 16 bytes a thread,
// neighbours side by side. A thread takes eight columns of one row; a block of 256 covers as many
// columns as there are, up to 2,048, and the rows that are left over, so neither narrow nor wide
// rows leave threads idle. exp costs 20 instructions an element, which stay below the memory's
// time.
#include "kernels/cuda/elements.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/rows_area.h"
#include "kernels/portable_math.h"

namespace reprise::cuda {
namespace {

REPRISE_KERNEL(kAreaThreads, 1) EmbedKernel(EmbedArgs args, Area area) {
  ForArea<8>(area, [&](int64_t row, int64_t col, int64_t n) {
    const Eight x = LoadSome(args.table, args.ids[row], col, n);
    StoreSome(x, args.y, row, col, n);
    if (args.also.data != nullptr) StoreSome(x, args.also, row, col, n);
  });
}

REPRISE_KERNEL(kAreaThreads, 1) AddKernel(AddRowsArgs args, Area area) {
  ForArea<8>(area, [&](int64_t row, int64_t col, int64_t n) {
    Eight x = LoadSome(args.x, row, col, n);
    if (args.bias != nullptr) {
      const Eight bias = LoadSome(args.bias + col, n);
      REPRISE_UNROLL
      for (int i = 0; i < 8; ++i) x.v[i] = x.v[i] + bias.v[i];
    }
    if (args.residual.data != nullptr) {
      const Eight residual = LoadSome(args.residual, row, col, n);
      REPRISE_UNROLL
      for (int i = 0; i < 8; ++i) x.v[i] = x.v[i] + residual.v[i];
    }
    StoreSome(x, args.y, row, col, n);
  });
}

REPRISE_KERNEL(kAreaThreads, 1) SwigluKernel(SwigluArgs args, Area area) {
  ForArea<8>(area, [&](int64_t row, int64_t col, int64_t n) {
    const Eight gate = LoadSome(args.gate, row, col, n);
    const Eight up = LoadSome(args.up, row, col, n);
    Eight y;
    REPRISE_UNROLL
    for (int i = 0; i < 8; ++i) {
      const float e = kernels::PortableExp(0.0F - gate.v[i]);
      y.v[i] = Divide(gate.v[i], 1.0F + e) * up.v[i];
    }
    StoreSome(y, args.y, row, col, n);
  });
}

REPRISE_KERNEL(kAreaThreads, 1) ConvertKernel(ConvertArgs args, Area area) {
  ForArea<8>(area, [&](int64_t row, int64_t col, int64_t n) {
    StoreSome(LoadSome(args.x, row, col, n), args.y, row, col, n);
  });
}

REPRISE_KERNEL(kAreaThreads, 1) AddScaledKernel(AddScaledArgs args, Area area) {
  ForArea<8>(area, [&](int64_t row, int64_t col, int64_t n) {
    const int64_t to = args.to[row];
    const float weight = args.weights[row];
    const Eight x = LoadSome(args.x, row, col, n);
    float* out = static_cast<float*>(args.y.data) + to * args.y.stride + col;
    Eight y = LoadSome(out, n);
    REPRISE_UNROLL
    for (int i = 0; i < 8; ++i) y.v[i] = Fma(weight, x.v[i], y.v[i]);
    StoreSome(y, out, n);
  });
}

REPRISE_KERNEL(kAreaThreads, 1) CopyRowsKernel(CopyRowsArgs args, Area area) {
  ForArea<16>(area, [&](int64_t row, int64_t col, int64_t n) {
    const int64_t from = args.from == nullptr ? row : args.from[row];
    const int64_t to = args.to == nullptr ? row : args.to[row];
    if (to < 0) return;
    const uint8_t* x = static_cast<const uint8_t*>(args.x) + from * args.x_stride_bytes + col;
    uint8_t* y = static_cast<uint8_t*>(args.y) + to * args.y_stride_bytes + col;
    if (n == 16 && Aligned16(y) && (from < 0 || Aligned16(x))) {
      return Store16(y, from < 0 ? Words{} : Load16(x));
    }
    for (int64_t i = 0; i < n; ++i) y[i] = from < 0 ? uint8_t{0} : x[i];
  });
}

}  // namespace

int Embed(const EmbedArgs& args, Stream stream) {
  return StartArea<8>(EmbedKernel, args, args.rows, args.cols, stream);
}
int AddRows(const AddRowsArgs& args, Stream stream) {
  return StartArea<8>(AddKernel, args, args.rows, args.cols, stream);
}
int Swiglu(const SwigluArgs& args, Stream stream) {
  return StartArea<8>(SwigluKernel, args, args.rows, args.cols, stream);
}
int Convert(const ConvertArgs& args, Stream stream) {
  return StartArea<8>(ConvertKernel, args, args.rows, args.cols, stream);
}
int AddScaled(const AddScaledArgs& args, Stream stream) {
  if (args.y.bf16) return kErrorInvalidValue;
  return StartArea<8>(AddScaledKernel, args, args.rows, args.cols, stream);
}
int CopyRows(const CopyRowsArgs& args, Stream stream) {
  return StartArea<16>(CopyRowsKernel, args, args.rows, args.row_bytes, stream);
}

}  // namespace reprise::cuda
