// reprise bench: a closed-loop load on a running gateway.
#include <algorithm>
#include <cstdio>

#include "cli/client_commands.h"
#include "cli/load.h"
#include "common/json.h"
#include "common/percentile.h"
#include "common/random.h"

namespace reprise::cli {
namespace {

struct BenchOptions {
  std::string gateway;
  std::string state_dir = DefaultStateDir();
  int32_t concurrency = 4;
  int32_t requests = 16;
  int32_t prompt_tokens = 64;
  int32_t max_tokens = 64;
  int32_t vocab = 1000;
  int64_t seed = 1;
  bool json = false;
};

// Random ids: every prompt is another one, so nothing is cached.
v1::GenerateRequest MakeRequest(const BenchOptions& o, int i) {
  SplitMix64 random(static_cast<uint64_t>(o.seed) * 1'000'003 + static_cast<uint64_t>(i));
  v1::GenerateRequest request;
  for (int t = 0; t < o.prompt_tokens; ++t) {
    request.mutable_ids()->add_ids(
        1 + static_cast<int32_t>(random.Below(static_cast<uint64_t>(o.vocab - 1))));
  }
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(o.max_tokens);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

void PrintText(const BenchOptions& o, const LoadResult& r) {
  std::printf("%ld of %d requests in %.2f s, %.1f tokens/s\n", static_cast<long>(r.completed),
              o.requests, r.seconds, r.tokens_per_s());
  if (r.steady_seconds > 0) {
    std::printf("%.1f tokens/s in the %.2f s when %d decoded at once\n", r.steady_tokens_per_s,
                r.steady_seconds, std::min(o.concurrency, o.requests));
  }
  std::printf("TTFT p50 %.1f ms, p99 %.1f ms; ITL p50 %.2f ms, p99 %.2f ms\n",
              Percentile(r.ttft_ms, 50), Percentile(r.ttft_ms, 99), Percentile(r.itl_ms, 50),
              Percentile(r.itl_ms, 99));
}

void PrintJson(const BenchOptions& o, const LoadResult& r) {
  const std::string line = JsonWriter()
                               .Field("concurrency", o.concurrency)
                               .Field("requests", o.requests)
                               .Field("completed", r.completed)
                               .Field("prompt_tokens", r.prompt_tokens)
                               .Field("cached_tokens", r.cached_tokens)
                               .Field("tokens", r.tokens)
                               .Field("seconds", r.seconds)
                               .Field("tokens_per_s", r.tokens_per_s())
                               .Field("steady_tokens", r.steady_tokens)
                               .Field("steady_seconds", r.steady_seconds)
                               .Field("steady_tokens_per_s", r.steady_tokens_per_s)
                               .Field("ttft_p50_ms", Percentile(r.ttft_ms, 50))
                               .Field("ttft_p99_ms", Percentile(r.ttft_ms, 99))
                               .Field("itl_p50_ms", Percentile(r.itl_ms, 50))
                               .Field("itl_p99_ms", Percentile(r.itl_ms, 99))
                               .Take();
  std::printf("%s\n", line.c_str());
}

}  // namespace

int RunBench(const Args& args) {
  BenchOptions o;
  FlagSet flags("reprise bench", "Loads a gateway with random prompts and measures it.");
  flags.Add("gateway", &o.gateway, "the gateway's address; else found in --state-dir");
  flags.Add("state-dir", &o.state_dir, "where `reprise up` keeps its addresses");
  flags.AddRange("concurrency", &o.concurrency, 1, 4096, "requests at a time");
  flags.AddRange("requests", &o.requests, 1, 1'000'000, "requests in all");
  flags.AddRange("prompt-tokens", &o.prompt_tokens, 1, 1 << 20, "random ids per prompt");
  flags.AddRange("max-tokens", &o.max_tokens, 1, 1 << 20, "tokens generated per request");
  flags.AddRange("vocab", &o.vocab, 2, 1 << 24, "ids are drawn from 1 to this minus 1");
  flags.Add("seed", &o.seed, "of the prompts");
  flags.Add("json", &o.json, "print one line of JSON instead of text");
  if (const auto exit = ParseFlags(flags, args, 0, nullptr)) return *exit;
  const auto gateway = FindGateway(o.gateway, o.state_dir);
  if (!gateway.ok()) return Fail("bench", gateway.status());
  const LoadResult r = RunLoad({.gateway = *gateway,
                                .concurrency = o.concurrency,
                                .requests = o.requests,
                                .request = [&](int i) { return MakeRequest(o, i); }});
  o.json ? PrintJson(o, r) : PrintText(o, r);
  return r.failed == 0 ? 0 : Fail("bench", r.first_error);
}

}  // namespace reprise::cli
