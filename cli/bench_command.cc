// reprise bench: a closed-loop load on a running gateway.
#include <algorithm>
#include <cstdio>

#include "cli/client_commands.h"
#include "cli/load.h"
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
  if (const auto exit = ParseFlags(flags, args, 0, nullptr)) return *exit;
  const auto gateway = FindGateway(o.gateway, o.state_dir);
  if (!gateway.ok()) return Fail("bench", gateway.status());
  const LoadResult r = RunLoad({.gateway = *gateway,
                                .concurrency = o.concurrency,
                                .requests = o.requests,
                                .request = [&](int i) { return MakeRequest(o, i); }});
  std::printf("%ld of %d requests in %.2f s, %.1f tokens/s\n", static_cast<long>(r.completed),
              o.requests, r.seconds, r.tokens_per_s());
  std::printf("TTFT p50 %.1f ms, p99 %.1f ms; ITL p50 %.2f ms, p99 %.2f ms\n",
              Percentile(r.ttft_ms, 50), Percentile(r.ttft_ms, 99), Percentile(r.itl_ms, 50),
              Percentile(r.itl_ms, 99));
  return r.failed == 0 ? 0 : Fail("bench", r.first_error);
}

}  // namespace reprise::cli
