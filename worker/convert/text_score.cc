#include "worker/convert/text_score.h"

#include <algorithm>
#include <memory>

#include "worker/model/offline.h"

namespace reprise::convert {

StatusOr<TextScore> ScoreText(const std::string& dir, std::span<const int32_t> tokens,
                              const TextOptions& options) {
  if (tokens.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text has ", tokens.size(), " tokens, scoring needs 2 at least"));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<worker::OfflineModel> model,
                   worker::OfflineModel::Open({.model_dir = dir, .threads = options.threads},
                                              options.window_tokens));
  const auto window =
      static_cast<size_t>(std::min(model->executor().config().context, options.window_tokens));
  if (window < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(dir, ": a context of ", window, " tokens foretells nothing"));
  }
  TextScore score;
  for (size_t first = 0; first + 1 < tokens.size(); first += window - 1) {
    const auto part = tokens.subspan(first, std::min(window, tokens.size() - first));
    ASSIGN_OR_RETURN(const double nats, model->NegativeLogLikelihood(part));
    score.nats += nats;
    score.tokens += static_cast<int64_t>(part.size()) - 1;
  }
  return score;
}

}  // namespace reprise::convert
