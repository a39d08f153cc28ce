// Where decoding finds a row's query and leaves its result: in rows of q, out and lse, or by parts.
#ifndef REPRISE_KERNELS_CUDA_DECODE_RESULT_H_
#define REPRISE_KERNELS_CUDA_DECODE_RESULT_H_

#include "kernels/cuda/decode.h"
#include "kernels/cuda/device/matrix.h"
#include "kernels/cuda/numerics.h"

namespace reprise::cuda {

// Its first head's.
REPRISE_DEVICE const uint16_t* QueryOf(const DecodeArgs& args, int64_t row) {
  if (args.parts != nullptr) row = args.parts[row].q_row;
  return args.q + row * args.q_row_stride;
}

REPRISE_DEVICE void StoreAs(float value, float* to) { *to = value; }
REPRISE_DEVICE void StoreAs(float value, uint16_t* to) { *to = ToBf16(value).bits; }

// `at`: of the row's values, [q_heads, value dim].
REPRISE_DEVICE void StoreValue(const DecodeArgs& args, int64_t row, int64_t at, float value) {
  if (args.parts != nullptr) {
    StoreAs(value, args.parts[row].out + at);
  } else {
    StoreAs(value, args.out + row * args.out_row_stride + at);
  }
}

REPRISE_DEVICE void StoreLse(const DecodeArgs& args, int64_t row, int head, float lse2) {
  if (args.parts != nullptr) {
    args.parts[row].lse2[head] = lse2;
  } else if (args.lse != nullptr) {
    args.lse[row * args.q_heads + head] = lse2 * kLn2;
  }
}

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DECODE_RESULT_H_
