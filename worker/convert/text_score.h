// How well a model foretells a text, by the engine that serves it. One thread per call.
#ifndef REPRISE_WORKER_CONVERT_TEXT_SCORE_H_
#define REPRISE_WORKER_CONVERT_TEXT_SCORE_H_

#include <cstdint>
#include <span>
#include <string>

#include "common/status.h"
#include "worker/convert/moments.h"

namespace reprise::convert {

struct TextScore {
  int64_t tokens = 0;  // that were foretold: all but the text's first
  double nats = 0;     // -log probability of them together
};

// The text cut into windows that share one token with the next, each read from position 0: the
// token that ends a window is foretold by it and begins the next. The cache is of the type the
// model is served with. INVALID_ARGUMENT for fewer than two tokens.
StatusOr<TextScore> ScoreText(const std::string& dir, std::span<const int32_t> tokens,
                              const TextOptions& options);

}  // namespace reprise::convert

#endif  // REPRISE_WORKER_CONVERT_TEXT_SCORE_H_
