// Matrices stored in FP8 E4M3 with one scale for every block of rows and columns (DeepSeek-V3's
// checkpoints, arXiv 2412.19437 section 3.3), checked and widened when a model is loaded: what
// computes never sees them. Pure functions over views; any thread.
//
// Invariants:
// 1. Scales [ceil(rows / blocks.rows), ceil(cols / blocks.cols)] in F32 or BF16; blocks at the
//    right and lower edge may be cut.
// 2. A NaN code and a scale that is no number, negative or over limits::kBlockScaleMax are refused,
//    so a widened weight is finite.
#ifndef REPRISE_WORKER_MODEL_BLOCK_SCALED_H_
#define REPRISE_WORKER_MODEL_BLOCK_SCALED_H_

#include <cstdint>
#include <vector>

#include "common/status.h"
#include "kernels/ops.h"
#include "worker/model/model_config.h"
#include "worker/model/safetensors.h"

namespace reprise::worker {

// Shapes and types. INVALID_ARGUMENT or UNIMPLEMENTED (type of the scales) says what was found.
Status CheckBlockScales(const TensorView& matrix, const TensorView& scales,
                        const BlockScales& blocks);

// Reads every code and scale. Precondition: CheckBlockScales.
Status CheckBlockScaledValues(const TensorView& matrix, const TensorView& scales,
                              const BlockScales& blocks);

// The matrix row by row in `to`, kF32 or kBF16: code times scale with one rounding to f32, then for
// bf16 another to the nearest even. Precondition: CheckBlockScales. Errors of
// CheckBlockScaledValues.
StatusOr<std::vector<uint8_t>> WidenBlockScaled(const TensorView& matrix, const TensorView& scales,
                                                const BlockScales& blocks, kernels::DType to);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_BLOCK_SCALED_H_
