// A matrix and its scales of any shapes and bytes: what passes the check is widened to as many
// finite numbers as the matrix has elements.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "worker/model/block_scaled.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace worker = reprise::worker;
  constexpr size_t kHead = 6;
  if (size < kHead) return 0;
  const std::span<const uint8_t> rest(data + kHead, size - kHead);
  const uint64_t rows = data[0] % 40;
  const uint64_t cols = data[1] % 40;
  if (rows * cols > rest.size()) return 0;
  worker::TensorView matrix{worker::TensorType::kF8E4M3, {rows, cols}, rest.first(rows * cols)};
  worker::TensorView scales{worker::TensorType::kF32, {data[2] % 40u, data[3] % 40u}, {}};
  const std::span<const uint8_t> after = rest.subspan(rows * cols);
  if (scales.elements() * sizeof(float) > after.size()) return 0;
  scales.bytes = after.first(scales.elements() * sizeof(float));
  const worker::BlockScales blocks{1 + data[4] % 40, 1 + data[5] % 40};
  if (!worker::CheckBlockScales(matrix, scales, blocks).ok()) return 0;
  const auto wide = worker::WidenBlockScaled(matrix, scales, blocks, reprise::kernels::DType::kF32);
  if (!wide.ok()) return 0;
  if (wide->size() != rows * cols * sizeof(float)) __builtin_trap();
  for (size_t i = 0; i < wide->size(); i += sizeof(float)) {
    float value;
    std::memcpy(&value, wide->data() + i, sizeof(float));
    if (!std::isfinite(value)) __builtin_trap();
  }
  return 0;
}
