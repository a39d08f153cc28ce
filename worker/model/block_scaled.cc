#include "worker/model/block_scaled.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "kernels/e4m3.h"

namespace reprise::worker {
namespace {

using kernels::DType;

uint64_t Blocks(uint64_t n, int64_t block) {
  const auto size = static_cast<uint64_t>(block);
  return n / size + (n % size != 0 ? 1 : 0);
}

std::vector<float> ScalesOf(const TensorView& scales) {
  std::vector<float> values(scales.bytes.size() * 8 /
                            static_cast<size_t>(TensorTypeBits(scales.type)));
  const DType from = scales.type == TensorType::kBF16 ? DType::kBF16 : DType::kF32;
  kernels::Select(kernels::BestIsa())
      .convert(scales.bytes.data(), from, values.data(), DType::kF32,
               static_cast<int64_t>(values.size()));
  return values;
}

Status CheckScaleValues(const std::vector<float>& scales, uint64_t blocks_per_row) {
  for (size_t i = 0; i < scales.size(); ++i) {
    if (scales[i] >= 0 && scales[i] <= limits::kBlockScaleMax) continue;  // false for a NaN
    return absl::InvalidArgumentError(absl::StrCat("the scale of block (", i / blocks_per_row, ", ",
                                                   i % blocks_per_row, ") is ", scales[i],
                                                   ", the range is 0 to ", limits::kBlockScaleMax));
  }
  return absl::OkStatus();
}

Status CheckCodes(std::span<const uint8_t> codes) {
  const auto nan = std::find_if(codes.begin(), codes.end(), kernels::IsE4m3Nan);
  if (nan == codes.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("element ", nan - codes.begin(), " is not finite"));
}

}  // namespace

Status CheckBlockScales(const TensorView& matrix, const TensorView& scales,
                        const BlockScales& blocks) {
  if (matrix.shape.size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape ", matrix.ShapeText(), " is not a matrix's"));
  }
  if (scales.type != TensorType::kF32 && scales.type != TensorType::kBF16) {
    return absl::UnimplementedError(
        absl::StrCat("its scales are ", TensorTypeName(scales.type), ", supported: F32, BF16"));
  }
  const std::vector<uint64_t> want = {Blocks(matrix.shape[0], blocks.rows),
                                      Blocks(matrix.shape[1], blocks.cols)};
  if (scales.shape == want) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "its scales have shape ", scales.ShapeText(), ", ", matrix.ShapeText(), " in blocks of [",
      blocks.rows, ", ", blocks.cols, "] needs [", want[0], ", ", want[1], "]"));
}

Status CheckBlockScaledValues(const TensorView& matrix, const TensorView& scales,
                              const BlockScales& blocks) {
  RETURN_IF_ERROR(CheckScaleValues(ScalesOf(scales), Blocks(matrix.shape[1], blocks.cols)));
  return CheckCodes(matrix.bytes);
}

StatusOr<std::vector<uint8_t>> WidenBlockScaled(const TensorView& matrix, const TensorView& scales,
                                                const BlockScales& blocks, DType to) {
  RETURN_IF_ERROR(CheckBlockScaledValues(matrix, scales, blocks));
  const std::vector<float> values = ScalesOf(scales);
  const uint64_t cols = matrix.shape[1];
  const uint64_t blocks_per_row = Blocks(cols, blocks.cols);
  const auto element = static_cast<size_t>(SizeOf(to));
  const kernels::CpuOps& ops = kernels::Select(kernels::BestIsa());
  std::vector<uint8_t> wide(matrix.bytes.size() * element);
  std::vector<float> row(cols);
  for (uint64_t r = 0; cols > 0 && r < matrix.shape[0]; ++r) {
    const uint8_t* codes = matrix.bytes.data() + r * cols;
    const float* scale = values.data() + r / static_cast<uint64_t>(blocks.rows) * blocks_per_row;
    for (uint64_t block = 0; block < blocks_per_row; ++block) {
      const uint64_t first = block * static_cast<uint64_t>(blocks.cols);
      const uint64_t last = std::min(cols, first + static_cast<uint64_t>(blocks.cols));
      for (uint64_t c = first; c < last; ++c) {
        row[c] = kernels::kE4m3Values[codes[c]] * scale[block];
      }
    }
    ops.convert(row.data(), DType::kF32, wide.data() + r * cols * element, to,
                static_cast<int64_t>(cols));
  }
  return wide;
}

}  // namespace reprise::worker
