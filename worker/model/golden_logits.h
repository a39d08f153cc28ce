// What the reference computed for one of the models under tests/golden (make_golden.py there), and
// how far other logits are from it. Pure but for reading files; any thread.
#ifndef REPRISE_WORKER_MODEL_GOLDEN_LOGITS_H_
#define REPRISE_WORKER_MODEL_GOLDEN_LOGITS_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"

namespace reprise::worker {

// Of f32 weights and cache: what is left is the rounding of three layers in f32. 2e-5 is some 300
// roundings of the largest logit.
inline constexpr double kGoldenErrorMax = 2e-5;

struct GoldenLogits {
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // [tokens, vocab]
};
// DIR/golden.json and DIR/golden.safetensors.
StatusOr<GoldenLogits> ReadGoldenLogits(const std::string& dir);

// The largest difference over the root mean square of the wanted ones; infinite when the sizes
// differ or a number is lost.
double RelativeLogitError(std::span<const float> found, std::span<const float> want);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_GOLDEN_LOGITS_H_
