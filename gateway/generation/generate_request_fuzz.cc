// Any bytes as a GenerateRequest: refused with a reason, or within every bound of a
// ValidatedRequest.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "common/limits.h"
#include "gateway/generation/request_validation.h"

namespace {

void Require(bool holds) {
  if (!holds) std::abort();
}

void RequireInvariants(const reprise::gateway::ValidatedRequest& request,
                       const reprise::gateway::ServedModel& model) {
  namespace limits = reprise::limits;
  const auto& s = request.sampling;
  for (const float value : {s.temperature(), s.top_p(), s.min_p(), s.repetition_penalty(),
                            s.presence_penalty(), s.frequency_penalty()}) {
    Require(std::isfinite(value));
  }
  for (const auto& bias : s.logit_bias()) {
    Require(bias.token() >= 0 && bias.token() < model.vocab_size && std::isfinite(bias.bias()));
  }
  for (const int32_t id : s.stop_ids()) Require(id >= 0 && id < model.vocab_size);
  for (const int32_t id : request.prompt) Require(id >= 0 && id < model.vocab_size);
  Require(request.has_input ? !request.prompt.empty() : request.resume && request.prompt.empty());
  Require(s.max_tokens() >= 1 && s.min_tokens() >= 0 && s.min_tokens() <= s.max_tokens());
  if (request.has_input) {
    Require(static_cast<int64_t>(request.prompt.size()) + s.max_tokens() <= model.context_tokens);
  }
  Require(s.n() >= 1 && s.n() <= limits::kBranchesMax);
  Require(s.top_logprobs() >= 0 && s.top_logprobs() <= limits::kTopLogprobsMax);
  Require(request.deadline_ms > 0 && request.deadline_ms <= limits::kDeadlineMsMax);
  Require(request.resume_window_ms >= 0 && request.resume_window_ms <= limits::kResumeWindowMsMax);
  Require(request.replica_stores >= -1 && request.replica_stores <= limits::kReplicaStoresMax);
  const int32_t branches_max = request.has_input ? s.n() : limits::kBranchesMax;
  Require(request.received.size() <= static_cast<size_t>(branches_max));
  for (const auto& branch : request.received) {
    for (const int32_t id : branch) Require(id >= 0 && id < model.vocab_size);
    if (request.has_input) Require(branch.size() <= static_cast<size_t>(s.max_tokens()));
  }
  if (request.resume) {
    Require(request.resume_handle.size() == limits::kResumeHandleBytes);
    Require(!request.request_id.empty() && (request.has_seed || !request.has_input));
  }
  Require(request.request_id.size() <= limits::kRequestIdBytesMax);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  reprise::v1::GenerateRequest message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return 0;
  reprise::gateway::ServedModel model;
  model.name = "m";
  model.vocab_size = 512;
  model.context_tokens = 128;
  model.defaults.eos_ids = {2};
  auto request = reprise::gateway::ValidateGenerateRequest(message, model);
  if (!request.ok()) {
    Require(!request.status().message().empty());
    return 0;
  }
  if (request->has_text) {
    // As many tokens as a tokenizer could make of it.
    std::vector<int32_t> ids(request->text.size(), 3);
    if (!reprise::gateway::SetPrompt(std::move(ids), model, *request).ok()) return 0;
  }
  RequireInvariants(*request, model);
  return 0;
}
