// reprise generate: one request, streamed to the terminal.
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cli/client/generation_client.h"
#include "cli/client_commands.h"
#include "common/clock.h"
#include "common/json.h"

namespace reprise::cli {
namespace {

constexpr double kUnset = std::numeric_limits<double>::infinity();

struct GenerateOptions {
  std::string gateway;
  std::string state_dir = DefaultStateDir();
  std::string ids;
  std::string request_id;
  bool raw_text = false;
  bool stats = false;
  bool json = false;
  int64_t deadline_ms = 0;
  double temperature = kUnset;
  double top_p = kUnset;
  double min_p = kUnset;
  double repetition_penalty = kUnset;
  double presence_penalty = kUnset;
  double frequency_penalty = kUnset;
  int64_t top_k = -1;
  int64_t seed = -1;
  int64_t max_tokens = -1;
  int64_t min_tokens = -1;
  int64_t top_logprobs = -1;
  int64_t n = -1;
  bool ignore_eos = false;
  int64_t resume_window_ms = -1;
  int64_t replicas = -1;
  std::vector<std::string> stop_ids;
  std::vector<std::string> logit_bias;
};

// Ranges are the gateway's business: it names them in its answer.
void Declare(FlagSet& flags, GenerateOptions& o) {
  flags.Add("gateway", &o.gateway, "addresses of gateways, by commas; else found in --state-dir");
  flags.Add("state-dir", &o.state_dir, "where `reprise up` keeps its addresses");
  flags.Add("ids", &o.ids, "token ids instead of text, separated by commas");
  flags.Add("request-id", &o.request_id, "name of the request; drawn when empty");
  flags.Add("raw-text", &o.raw_text, "no special tokens around the text");
  flags.Add("stats", &o.stats, "print TTFT, tokens/s and usage afterwards");
  flags.Add("json", &o.json, "print one JSON object a branch instead of text");
  flags.AddDurationMs("deadline", &o.deadline_ms, 0, 86'400'000, "0: the server's limit");
  flags.Add("resume-window-ms", &o.resume_window_ms,
            "how long the request waits for a client that lost its gateway; -1: default, 0: not");
  flags.Add("replicas", &o.replicas, "copies of the KV kept in stores; -1: the cluster's default");
  flags.Add("temperature", &o.temperature, "0 is greedy; absent: the model's default, as below");
  flags.Add("top-p", &o.top_p, "smallest set of tokens with this probability");
  flags.Add("min-p", &o.min_p, "least probability relative to the best token's");
  flags.Add("top-k", &o.top_k, "only the k best tokens; -1: default, 0: off");
  flags.Add("repetition-penalty", &o.repetition_penalty, "over prompt and output; 1: off");
  flags.Add("presence-penalty", &o.presence_penalty, "over output; 0: off");
  flags.Add("frequency-penalty", &o.frequency_penalty, "over output; 0: off");
  flags.Add("logit-bias", &o.logit_bias, "ID:BIAS; may repeat");
  flags.Add("seed", &o.seed, "-1: drawn by the gateway");
  flags.Add("max-tokens", &o.max_tokens, "-1: default");
  flags.Add("min-tokens", &o.min_tokens, "-1: default");
  flags.Add("top-logprobs", &o.top_logprobs, "alternatives per token; -1: none");
  flags.Add("stop-id", &o.stop_ids, "token id that ends a branch; may repeat");
  flags.Add("n", &o.n, "branches; -1: one");
  flags.Add("ignore-eos", &o.ignore_eos, "do not end at the end-of-sequence token");
}

template <typename T>
Status ReadList(const std::vector<std::string>& words, const char* flag, T add) {
  for (const std::string& word : words) {
    if (!add(word)) {
      return absl::InvalidArgumentError(absl::StrCat("--", flag, " does not understand ", word));
    }
  }
  return absl::OkStatus();
}

StatusOr<v1::GenerateRequest> BuildRequest(const GenerateOptions& o,
                                           const std::vector<std::string>& positional) {
  v1::GenerateRequest request;
  request.set_request_id(o.request_id);
  request.set_raw_text(o.raw_text);
  request.set_deadline_ms(o.deadline_ms);
  if (o.resume_window_ms >= 0) request.set_resume_window_ms(o.resume_window_ms);
  if (o.replicas >= 0) request.set_replicas(static_cast<int32_t>(o.replicas));
  if (!o.ids.empty()) {
    auto* ids = request.mutable_ids();
    RETURN_IF_ERROR(ReadList(absl::StrSplit(o.ids, ','), "ids", [&](const std::string& word) {
      int32_t id = 0;
      if (!absl::SimpleAtoi(word, &id)) return false;
      ids->add_ids(id);
      return true;
    }));
  } else if (positional.empty()) {
    return absl::InvalidArgumentError("give a prompt, or --ids");
  } else {
    request.set_text(positional[0]);
  }
  v1::SamplingParams& s = *request.mutable_sampling();
  if (o.temperature != kUnset) s.set_temperature(static_cast<float>(o.temperature));
  if (o.top_p != kUnset) s.set_top_p(static_cast<float>(o.top_p));
  if (o.min_p != kUnset) s.set_min_p(static_cast<float>(o.min_p));
  if (o.repetition_penalty != kUnset) {
    s.set_repetition_penalty(static_cast<float>(o.repetition_penalty));
  }
  if (o.presence_penalty != kUnset) s.set_presence_penalty(static_cast<float>(o.presence_penalty));
  if (o.frequency_penalty != kUnset) {
    s.set_frequency_penalty(static_cast<float>(o.frequency_penalty));
  }
  if (o.top_k >= 0) s.set_top_k(static_cast<int32_t>(o.top_k));
  if (o.seed >= 0) s.set_seed(static_cast<uint64_t>(o.seed));
  if (o.max_tokens >= 0) s.set_max_tokens(static_cast<int32_t>(o.max_tokens));
  if (o.min_tokens >= 0) s.set_min_tokens(static_cast<int32_t>(o.min_tokens));
  if (o.top_logprobs >= 0) s.set_top_logprobs(static_cast<int32_t>(o.top_logprobs));
  if (o.n >= 0) s.set_n(static_cast<int32_t>(o.n));
  if (o.ignore_eos) s.set_ignore_eos(true);
  RETURN_IF_ERROR(ReadList(o.stop_ids, "stop-id", [&](const std::string& word) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(word, &id)) return false;
    s.add_stop_ids(id);
    return true;
  }));
  RETURN_IF_ERROR(ReadList(o.logit_bias, "logit-bias", [&](const std::string& word) {
    const std::vector<std::string> parts = absl::StrSplit(word, ':');
    int32_t id = 0;
    float bias = 0;
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &id) ||
        !absl::SimpleAtof(parts[1], &bias)) {
      return false;
    }
    s.add_logit_bias()->set_token(id);
    s.mutable_logit_bias()->rbegin()->set_bias(bias);
    return true;
  }));
  return request;
}

// Streams branch 0 to the terminal; further branches are printed when the request has ended.
class Printer {
 public:
  explicit Printer(bool quiet) : quiet_(quiet), start_(RealClock().NowNs()) {}

  void operator()(const v1::GenerateEvent& event) {
    if (event.has_branch_finished() && event.branch_finished().branch() == 0) {
      Print(event.branch_finished().text());
    }
    if (!event.has_tokens()) return;
    last_ = RealClock().NowNs();
    if (first_ == 0) first_ = last_;
    for (const v1::Token& token : event.tokens().tokens()) {
      ++tokens_;
      if (token.branch() == 0) Print(token.text());
    }
  }

  void PrintStats(const client::Completion& completion) const {
    const v1::Usage& usage = completion.finished.usage();
    const double decode_s = SecondsFromNs(last_ - first_);
    std::printf(
        "TTFT %.1f ms, %.1f tokens/s, %d prompt tokens (%d cached), %d generated, "
        "%d attempt%s, request %s, seed %lu\n",
        MsFromNs(first_ - start_), decode_s > 0 ? static_cast<double>(tokens_ - 1) / decode_s : 0.0,
        usage.prompt_tokens(), usage.cached_tokens(), usage.generated_tokens(), usage.attempts(),
        usage.attempts() == 1 ? "" : "s", completion.accepted.request_id().c_str(),
        static_cast<unsigned long>(completion.accepted.seed()));
  }

 private:
  void Print(const std::string& text) {
    if (quiet_) return;
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
  }
  const bool quiet_;
  const TimeNs start_;
  TimeNs first_ = 0;
  TimeNs last_ = 0;
  int64_t tokens_ = 0;
};

void PrintJson(const client::Completion& completion) {
  for (size_t i = 0; i < completion.branches.size(); ++i) {
    const auto& branch = completion.branches[i];
    std::printf("%s\n", JsonWriter()
                            .Field("request_id", completion.accepted.request_id())
                            .Field("seed", completion.accepted.seed())
                            .Field("branch", static_cast<int64_t>(i))
                            .Field("text", branch.text)
                            .Raw("ids", absl::StrCat("[", absl::StrJoin(branch.ids, ", "), "]"))
                            .Field("reason", v1::FinishReason_Name(branch.reason))
                            .Take()
                            .c_str());
  }
}

}  // namespace

int RunGenerate(const Args& args) {
  GenerateOptions o;
  FlagSet flags("reprise generate", "Streams a completion of a prompt to the terminal.", "PROMPT");
  Declare(flags, o);
  std::vector<std::string> positional;
  if (const auto exit = ParseFlags(flags, args, 1, &positional)) return *exit;
  const auto gateway = FindGateway(o.gateway, o.state_dir);
  if (!gateway.ok()) return Fail("generate", gateway.status());
  const auto request = BuildRequest(o, positional);
  if (!request.ok()) return Fail("generate", request.status());

  client::GenerationClient client({.address = *gateway});
  Printer printer(o.json);
  if (!o.json && !positional.empty()) std::fputs(positional[0].c_str(), stdout);
  const auto completion =
      client.Generate(*request, [&](const v1::GenerateEvent& event) { printer(event); });
  if (!o.json) std::fputs("\n", stdout);
  if (!completion.ok()) return Fail("generate", completion.status());
  if (o.json) {
    PrintJson(*completion);
  } else {
    for (size_t i = 1; i < completion->branches.size(); ++i) {
      std::printf("--- branch %zu\n%s\n", i, completion->branches[i].text.c_str());
    }
  }
  if (o.stats) printer.PrintStats(*completion);
  return 0;
}

}  // namespace reprise::cli
