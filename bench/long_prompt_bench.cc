// The time to the first token of one long prompt, by the number of ranks that share it: a cluster
// as `reprise up` starts it, whose worker is one process of one thread, against one whose worker is
// a context-parallel group of two (cp2), a process of one thread each. Pairs take turns, every pair
// with a prompt of its own, and must give the same tokens and logprob bits. A group of four is
// printed without a demand: on two processors its ranks take turns.
//
// Then both kinds of worker side by side: the coordinator sends long prompts to the group and short
// ones to the single process, by its rule (docs/coordinator.md).
#include <algorithm>
#include <bit>
#include <memory>
#include <string>
#include <vector>

#include "bench/attention_model.h"
#include "cli/client/generation_client.h"
#include "common/clock.h"
#include "common/percentile.h"
#include "common/role.h"
#include "tests/cluster/setting.h"
#include "tests/cluster/up.h"

namespace reprise::bench {
namespace {

constexpr int kPromptTokens = 32'768;
constexpr int kNewTokens = 8;
constexpr int kPairs = 3;
constexpr int kPairsLong = 9;
constexpr double kTtftRatioMax = 0.70;
// Of the placements.
constexpr int kPlaced = 3;  // of each kind
constexpr int kShortTokens = 300;
constexpr int kLongTokens = 4096;
constexpr TimeNs kSettleNs = 1500 * kMillisecond;  // until workers have reported that they are free
constexpr char kAccepted[] = "reprise_worker_requests_accepted_total";

// Far into a prompt attention is nearly all there is to compute.
worker::ModelConfig Config() {
  worker::ModelConfig config = *worker::PresetConfig("tiny-gqa");
  config.hidden = 256;
  config.intermediate = 512;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 64;
  config.context = kPromptTokens + kLongTokens;
  return config;
}

// Greedy; different numbers have no prefix in common.
v1::GenerateRequest Request(int number, int prompt_tokens) {
  SplitMix64 random(static_cast<uint64_t>(number) + 1);
  v1::GenerateRequest request;
  for (int i = 0; i < prompt_tokens; ++i) {
    request.mutable_ids()->add_ids(1 + static_cast<int32_t>(random.Below(500)));
  }
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(kNewTokens);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

struct Answer {
  double ttft_s = 0;
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
};

StatusOr<Answer> Ask(const std::string& gateway, const v1::GenerateRequest& request) {
  client::GenerationClient client({.address = gateway});
  Answer answer;
  const TimeNs start = RealClock().NowNs();
  ASSIGN_OR_RETURN(const client::Completion completion,
                   client.Generate(request, [&](const v1::GenerateEvent& event) {
                     if (!event.has_tokens() || answer.ttft_s != 0) return;
                     answer.ttft_s = SecondsFromNs(RealClock().NowNs() - start);
                   }));
  answer.ids = completion.branches.front().ids;
  answer.logprobs = completion.branches.front().logprobs;
  return answer;
}

// Tokens that differ in id or logprob bits.
int64_t Different(const Answer& a, const Answer& b) {
  if (a.ids.size() != kNewTokens || b.ids.size() != kNewTokens) return kNewTokens;
  int64_t different = 0;
  for (size_t i = 0; i < kNewTokens; ++i) {
    const bool same = a.ids[i] == b.ids[i] && std::bit_cast<uint32_t>(a.logprobs[i]) ==
                                                  std::bit_cast<uint32_t>(b.logprobs[i]);
    if (!same) ++different;
  }
  return different;
}

// One worker and nothing that would take processor time beside it; `group` empty: one process.
StatusOr<std::unique_ptr<harness::Up>> StartOne(const BenchFlags& flags, const std::string& model,
                                                const std::string& group) {
  std::vector<std::string> up = {"--prefill-workers=0", "--decode-workers=1", "--stores=0",
                                 "--replica-stores=0", "--threads=1"};
  if (!group.empty()) up.push_back("--group=" + group);
  return harness::Up::Start(flags.reprise, model, up, {"coordinator", "decode-0", "gateway"});
}

Status MeasureTtft(const BenchFlags& flags, const std::string& model, Report& report) {
  const int pairs = flags.long_run ? kPairsLong : kPairs;
  std::vector<v1::GenerateRequest> requests;
  std::vector<Answer> answers;  // of one process
  std::vector<double> one;
  std::vector<double> two;
  std::vector<double> ratios;
  int64_t different = 0;
  {
    ASSIGN_OR_RETURN(const auto single, StartOne(flags, model, ""));
    ASSIGN_OR_RETURN(const auto group, StartOne(flags, model, "cp2"));
    for (int pair = 0; pair < pairs; ++pair) {
      requests.push_back(Request(pair, kPromptTokens));
      ASSIGN_OR_RETURN(const Answer alone, Ask(single->gateway(), requests.back()));
      ASSIGN_OR_RETURN(const Answer shared, Ask(group->gateway(), requests.back()));
      one.push_back(alone.ttft_s);
      two.push_back(shared.ttft_s);
      ratios.push_back(shared.ttft_s / alone.ttft_s);
      different += Different(alone, shared);
      answers.push_back(alone);
    }
  }
  ASSIGN_OR_RETURN(const auto group, StartOne(flags, model, "cp4"));
  ASSIGN_OR_RETURN(const Answer four, Ask(group->gateway(), requests.front()));
  different += Different(answers.front(), four);
  report.Figure("ttft_one", Median(one), "s");
  report.Figure("ttft_cp2", Median(two), "s");
  report.Figure("ttft_cp4_on_as_many_processors", four.ttft_s, "s");
  report.Figure("ttft_cp4_over_one", four.ttft_s / answers.front().ttft_s, "");
  report.Bar("ttft_cp2_over_one", Median(ratios), "<=", kTtftRatioMax, pairs);
  report.Bar("tokens_different", static_cast<double>(different), "==", 0,
             int64_t{pairs + 1} * kNewTokens);
  return absl::OkStatus();
}

Status MeasurePlacement(const BenchFlags& flags, const std::string& model, Report& report) {
  harness::Setting setting = harness::OneWorker(flags.reprise, model);
  setting.decode_workers = 2;
  // Of equal costs the lower name would win: only the rule leaves it to the long prompts.
  setting.groups = {{"decode-0", "cp2"}};
  ASSIGN_OR_RETURN(const auto cluster, harness::StartCluster(setting));
  StopSignal never;
  const auto accepted = [&](const std::string& worker) {
    return cluster->Metric(worker, kAccepted);
  };
  // How many of the requests `worker` is given.
  const auto placed = [&](int prompt_tokens, const std::string& worker) -> StatusOr<double> {
    ASSIGN_OR_RETURN(const double before, accepted(worker));
    for (int i = 0; i < kPlaced; ++i) {
      never.WaitFor(kSettleNs);
      RETURN_IF_ERROR(
          Ask(cluster->gateways().front(), Request(1000 * prompt_tokens + i, prompt_tokens))
              .status());
    }
    ASSIGN_OR_RETURN(const double after, accepted(worker));
    return after - before;
  };
  ASSIGN_OR_RETURN(const double to_single, placed(kShortTokens, "decode-1"));
  ASSIGN_OR_RETURN(const double to_group, placed(kLongTokens, "decode-0"));
  report.Bar("short_prompts_to_the_single_process", to_single, "==", kPlaced, kPlaced);
  report.Bar("long_prompts_to_the_group", to_group, "==", kPlaced, kPlaced);
  return absl::OkStatus();
}

Status Run(const BenchFlags& flags, Report& report) {
  ASSIGN_OR_RETURN(const worker::ModelFolder folder, MadeAttention(flags, "long-prompt", Config()));
  report.Note(absl::StrCat("a prompt of ", kPromptTokens, " tokens, ranks of one thread; side by ",
                           "side: prompts of ", kShortTokens, " and ", kLongTokens));
  RETURN_IF_ERROR(MeasureTtft(flags, folder.dir(), report));
  return MeasurePlacement(flags, folder.dir(), report);
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("long-prompt", argc, argv, reprise::bench::Run);
}
