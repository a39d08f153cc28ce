#include "gateway/generation/request_validation.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>
#include <utility>

#include "absl/strings/ascii.h"
#include "common/limits.h"

namespace reprise::gateway {
namespace {

template <typename T>
struct Range {
  T min;
  T max;
  bool above_min = false;  // min itself is out
};

template <typename T>
Status CheckRange(absl::string_view field, T value, const Range<T>& range) {
  // Written so that NaN fails.
  const bool low_ok = range.above_min ? value > range.min : value >= range.min;
  if (low_ok && value <= range.max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, ", allowed are ",
                                                 range.above_min ? "above " : "", range.min, " to ",
                                                 range.max));
}

Status CheckCount(absl::string_view field, int64_t count, int64_t count_max) {
  if (count <= count_max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " has ", count, " entries, the limit is ", count_max));
}

template <typename Ids>
Status CheckIds(absl::string_view field, const Ids& ids, const ServedModel& model) {
  for (const int32_t id : ids) {
    if (id < 0 || id >= model.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          field, " has token id ", id, ", the vocabulary has ids 0 to ", model.vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

// What reshapes the distribution before the draw.
Status ResolveShape(const v1::SamplingParams& in, const worker::GenerationDefaults& defaults,
                    v1::ResolvedSampling& out) {
  out.set_temperature(in.has_temperature() ? in.temperature() : defaults.temperature.value_or(1));
  RETURN_IF_ERROR(
      CheckRange<float>("temperature", out.temperature(), {0, limits::kTemperatureMax}));
  out.set_top_k(in.has_top_k() ? in.top_k() : defaults.top_k.value_or(0));
  RETURN_IF_ERROR(CheckRange<int32_t>("top_k", out.top_k(), {0, INT32_MAX}));
  out.set_top_p(in.has_top_p() ? in.top_p() : defaults.top_p.value_or(1));
  RETURN_IF_ERROR(CheckRange<float>("top_p", out.top_p(), {0, 1, /*above_min=*/true}));
  out.set_min_p(in.has_min_p() ? in.min_p() : defaults.min_p.value_or(0));
  return CheckRange<float>("min_p", out.min_p(), {0, 1});
}

Status ResolvePenalties(const v1::SamplingParams& in, const worker::GenerationDefaults& defaults,
                        v1::ResolvedSampling& out) {
  out.set_repetition_penalty(in.has_repetition_penalty() ? in.repetition_penalty()
                                                         : defaults.repetition_penalty.value_or(1));
  RETURN_IF_ERROR(CheckRange<float>("repetition_penalty", out.repetition_penalty(),
                                    {0, limits::kPenaltyMax, /*above_min=*/true}));
  out.set_presence_penalty(in.presence_penalty());
  RETURN_IF_ERROR(CheckRange<float>("presence_penalty", out.presence_penalty(),
                                    {-limits::kPenaltyMax, limits::kPenaltyMax}));
  out.set_frequency_penalty(in.frequency_penalty());
  return CheckRange<float>("frequency_penalty", out.frequency_penalty(),
                           {-limits::kPenaltyMax, limits::kPenaltyMax});
}

Status ResolveBias(const v1::SamplingParams& in, const ServedModel& model,
                   v1::ResolvedSampling& out) {
  RETURN_IF_ERROR(CheckCount("logit_bias", in.logit_bias_size(), limits::kLogitBiasMax));
  std::unordered_set<int32_t> seen;
  for (const v1::LogitBias& bias : in.logit_bias()) {
    RETURN_IF_ERROR(
        CheckRange<int32_t>("logit_bias.token", bias.token(), {0, model.vocab_size - 1}));
    RETURN_IF_ERROR(CheckRange<float>("logit_bias.bias", bias.bias(),
                                      {-limits::kLogitBiasAbsMax, limits::kLogitBiasAbsMax}));
    if (!seen.insert(bias.token()).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias names token ", bias.token(), " twice"));
    }
    *out.add_logit_bias() = bias;
  }
  return absl::OkStatus();
}

Status ResolveEnds(const v1::SamplingParams& in, const ServedModel& model,
                   v1::ResolvedSampling& out) {
  RETURN_IF_ERROR(CheckCount("stop_ids", in.stop_ids_size(), limits::kStopIdsMax));
  RETURN_IF_ERROR(CheckIds("stop_ids", in.stop_ids(), model));
  *out.mutable_stop_ids() = in.stop_ids();
  if (!in.ignore_eos()) {
    for (const int32_t id : model.defaults.eos_ids) out.add_eos_ids(id);
  }
  out.set_max_tokens(in.has_max_tokens()
                         ? in.max_tokens()
                         : model.defaults.max_new_tokens.value_or(limits::kMaxTokensDefault));
  RETURN_IF_ERROR(CheckRange<int32_t>("max_tokens", out.max_tokens(), {1, INT32_MAX}));
  out.set_min_tokens(in.min_tokens());
  return CheckRange<int32_t>("min_tokens", out.min_tokens(), {0, out.max_tokens()});
}

Status ResolveCounts(const v1::SamplingParams& in, v1::ResolvedSampling& out) {
  out.set_top_logprobs(in.top_logprobs());
  RETURN_IF_ERROR(
      CheckRange<int32_t>("top_logprobs", out.top_logprobs(), {0, limits::kTopLogprobsMax}));
  out.set_n(in.has_n() ? in.n() : 1);
  return CheckRange<int32_t>("n", out.n(), {1, limits::kBranchesMax});
}

Status TakeInput(const v1::GenerateRequest& in, const ServedModel& model, ValidatedRequest& out) {
  switch (in.input_case()) {
    case v1::GenerateRequest::kText:
      RETURN_IF_ERROR(ValidateText(in.text()));
      out.has_text = true;
      out.text = in.text();
      out.raw_text = in.raw_text();
      return absl::OkStatus();
    case v1::GenerateRequest::kIds:
      RETURN_IF_ERROR(CheckCount("ids", in.ids().ids_size(), limits::kPromptTokensMax));
      return SetPrompt({in.ids().ids().begin(), in.ids().ids().end()}, model, out);
    case v1::GenerateRequest::INPUT_NOT_SET:
      out.has_input = false;
      if (out.resume) return absl::OkStatus();
      break;
  }
  return absl::InvalidArgumentError("the request has neither text nor ids");
}

Status ResolveCopies(const v1::GenerateRequest& in, ValidatedRequest& out) {
  out.resume_window_ms =
      in.has_resume_window_ms() ? in.resume_window_ms() : limits::kResumeWindowMsDefault;
  RETURN_IF_ERROR(CheckRange<int64_t>("resume_window_ms", out.resume_window_ms,
                                      {0, limits::kResumeWindowMsMax}));
  if (!in.has_replicas()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckRange<int32_t>("replicas", in.replicas(), {0, limits::kReplicaStoresMax}));
  out.replica_stores = in.replicas() == 0 ? -1 : in.replicas();
  return absl::OkStatus();
}

Status TakeResume(const v1::GenerateRequest& in, const ServedModel& model, ValidatedRequest& out) {
  if (!in.has_resume()) return absl::OkStatus();
  RETURN_IF_ERROR(ValidateRequestId(in.request_id()));
  const v1::Resume& resume = in.resume();
  if (resume.handle().size() != limits::kResumeHandleBytes) {
    return absl::InvalidArgumentError(absl::StrCat("resume.handle has ", resume.handle().size(),
                                                   " bytes, it must have ",
                                                   limits::kResumeHandleBytes));
  }
  const bool has_input = in.input_case() != v1::GenerateRequest::INPUT_NOT_SET;
  if (has_input && !out.has_seed) {
    return absl::InvalidArgumentError(
        "a resume with input has no sampling.seed: give the one that Accepted told");
  }
  RETURN_IF_ERROR(CheckCount("resume.received", resume.received_size(),
                             has_input ? out.sampling.n() : limits::kBranchesMax));
  for (const v1::ReceivedBranch& branch : resume.received()) {
    RETURN_IF_ERROR(CheckCount("resume.received.ids", branch.ids_size(), limits::kPromptTokensMax));
    RETURN_IF_ERROR(CheckIds("resume.received.ids", branch.ids(), model));
    out.received.emplace_back(branch.ids().begin(), branch.ids().end());
  }
  out.resume = true;
  out.resume_handle = resume.handle();
  return absl::OkStatus();
}

}  // namespace

Status ValidateRequestId(absl::string_view id) {
  if (id.empty()) return absl::InvalidArgumentError("request_id is empty");
  if (id.size() > limits::kRequestIdBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "request_id has ", id.size(), " bytes, the limit is ", limits::kRequestIdBytesMax));
  }
  for (size_t i = 0; i < id.size(); ++i) {
    const auto c = static_cast<unsigned char>(id[i]);
    if (absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-') continue;
    return absl::InvalidArgumentError(absl::StrCat("request_id has byte ", int{c}, " at position ",
                                                   i, ", allowed are A-Z a-z 0-9 . _ -"));
  }
  return absl::OkStatus();
}

Status ValidateModelName(absl::string_view name, const ServedModel& model) {
  if (name.empty() || name == model.name) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("model \"", name.substr(0, 64),
                                          "\" is not served here, \"", model.name, "\" is"));
}

Status ValidateText(absl::string_view text) {
  if (text.size() <= limits::kTextBytesMax) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("text has ", text.size(), " bytes, the limit is ", limits::kTextBytesMax));
}

StatusOr<ValidatedRequest> ValidateGenerateRequest(const v1::GenerateRequest& request,
                                                   const ServedModel& model) {
  ValidatedRequest out;
  if (!request.request_id().empty()) RETURN_IF_ERROR(ValidateRequestId(request.request_id()));
  out.request_id = request.request_id();
  RETURN_IF_ERROR(ValidateModelName(request.model(), model));
  RETURN_IF_ERROR(
      CheckRange<int64_t>("deadline_ms", request.deadline_ms(), {0, limits::kDeadlineMsMax}));
  out.deadline_ms = request.deadline_ms() == 0 ? limits::kDeadlineMsDefault : request.deadline_ms();
  const v1::SamplingParams& in = request.sampling();
  RETURN_IF_ERROR(ResolveShape(in, model.defaults, out.sampling));
  RETURN_IF_ERROR(ResolvePenalties(in, model.defaults, out.sampling));
  RETURN_IF_ERROR(ResolveBias(in, model, out.sampling));
  RETURN_IF_ERROR(ResolveEnds(in, model, out.sampling));
  RETURN_IF_ERROR(ResolveCounts(in, out.sampling));
  out.has_seed = in.has_seed();
  out.sampling.set_seed(in.seed());
  RETURN_IF_ERROR(ResolveCopies(request, out));
  RETURN_IF_ERROR(TakeResume(request, model, out));
  RETURN_IF_ERROR(TakeInput(request, model, out));
  return out;
}

Status SetPrompt(std::vector<int32_t> ids, const ServedModel& model, ValidatedRequest& request) {
  const size_t tokens_max = static_cast<size_t>(
      std::max(0, std::min(limits::kPromptTokensMax, model.context_tokens - 1)));
  if (ids.empty()) return absl::InvalidArgumentError("the prompt has no tokens");
  if (ids.size() > tokens_max) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has ", ids.size(), " tokens, the limit is ", tokens_max,
                     " (context ", model.context_tokens, ", one token left to generate)"));
  }
  RETURN_IF_ERROR(CheckIds("the prompt", ids, model));
  const int32_t room = model.context_tokens - static_cast<int32_t>(ids.size());
  v1::ResolvedSampling& sampling = request.sampling;
  sampling.set_max_tokens(std::min(sampling.max_tokens(), room));
  sampling.set_min_tokens(std::min(sampling.min_tokens(), sampling.max_tokens()));
  for (const std::vector<int32_t>& branch : request.received) {
    RETURN_IF_ERROR(CheckCount("resume.received.ids", static_cast<int64_t>(branch.size()),
                               sampling.max_tokens()));
  }
  request.prompt = std::move(ids);
  return absl::OkStatus();
}

}  // namespace reprise::gateway
