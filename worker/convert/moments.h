// What a text says about a model's keys and values: their second moments, layer by layer, read out
// of the KV cache after the model has read the text. One thread per call.
#ifndef REPRISE_WORKER_CONVERT_MOMENTS_H_
#define REPRISE_WORKER_CONVERT_MOMENTS_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "worker/convert/matrix.h"

namespace reprise::convert {

struct TextOptions {
  int threads = 1;
  // Tokens the model reads at a time, from position 0; its context when that is less.
  int64_t window_tokens = 2048;
};

// For each layer the mean of z z^T, z = (k, v): keys before rotation and values of all KV heads,
// one after the other. The model in `dir` has heads of keys and values, `tokens` are ids of its
// vocabulary. INVALID_ARGUMENT when the tokens are fewer than z has numbers: directions the text
// never takes would be lost.
StatusOr<std::vector<Matrix>> KeyValueMoments(const std::string& dir,
                                              std::span<const int32_t> tokens,
                                              const TextOptions& options);

}  // namespace reprise::convert

#endif  // REPRISE_WORKER_CONVERT_MOMENTS_H_
