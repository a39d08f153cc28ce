// From a client's GenerateRequest to values every later part may trust: limits checked, defaults
// filled in. Pure functions over untrusted messages; any thread.
//
// Order of defaults: the request, the model's generation_config.json, the comments of
// reprise/v1/generation.proto.
//
// Invariants of a ValidatedRequest with its prompt set:
// 1. Every number is finite and in range, every token id is in [0, vocab_size).
// 2. 1 <= prompt tokens, 1 <= max_tokens, prompt tokens + max_tokens <= context_tokens; without
//    input (a resume only) there is no prompt, and `sampling` means nothing.
// 3. A resume has an id, a handle of kResumeHandleBytes and, with input, a seed; `received` has at
//    most n branches of at most max_tokens ids.
#ifndef REPRISE_GATEWAY_GENERATION_REQUEST_VALIDATION_H_
#define REPRISE_GATEWAY_GENERATION_REQUEST_VALIDATION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"
#include "reprise/v1/cluster.pb.h"
#include "reprise/v1/generation.pb.h"
#include "worker/model/model_config.h"

namespace reprise::gateway {

// What of the served model decides whether a request is valid.
struct ServedModel {
  std::string name;
  int32_t vocab_size = 0;
  int32_t context_tokens = 0;
  worker::GenerationDefaults defaults;
};

struct ValidatedRequest {
  std::string request_id;  // empty: to be drawn
  bool has_input = true;
  bool has_text = false;
  std::string text;  // when has_text, until tokenized
  bool raw_text = false;
  std::vector<int32_t> prompt;
  bool has_seed = false;  // false: sampling.seed is to be drawn
  v1::ResolvedSampling sampling;
  int64_t deadline_ms = 0;       // never 0
  int64_t resume_window_ms = 0;  // 0: not resumable
  int32_t replica_stores = 0;    // as in PlaceRequest: 0: the cluster's default, -1: none
  bool resume = false;
  std::string resume_handle;                   // of a resume
  std::vector<std::vector<int32_t>> received;  // of a resume, by branch
};

// Everything but the prompt's length in tokens. INVALID_ARGUMENT names the field, the limit and the
// value found; NOT_FOUND a model that is not served.
StatusOr<ValidatedRequest> ValidateGenerateRequest(const v1::GenerateRequest& request,
                                                   const ServedModel& model);

// Sets the prompt and cuts max_tokens (and min_tokens) to what the context leaves.
// INVALID_ARGUMENT also when `received` is longer than that.
Status SetPrompt(std::vector<int32_t> ids, const ServedModel& model, ValidatedRequest& request);

Status ValidateRequestId(absl::string_view id);  // not empty
Status ValidateModelName(absl::string_view name, const ServedModel& model);
Status ValidateText(absl::string_view text);

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_GENERATION_REQUEST_VALIDATION_H_
