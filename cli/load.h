// A closed-loop load on a gateway: so many requests at a time, times of every token kept. Used by
// `reprise bench` and the benchmarks. One call at a time.
#ifndef REPRISE_CLI_LOAD_H_
#define REPRISE_CLI_LOAD_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "reprise/v1/generation.pb.h"

namespace reprise::cli {

struct LoadOptions {
  std::string gateway;
  int concurrency = 1;
  int requests = 16;
  int connections = 4;
  // Makes request i; called before the first starts.
  std::function<v1::GenerateRequest(int)> request;
};

struct LoadResult {
  int64_t completed = 0;
  int64_t failed = 0;
  Status first_error;
  int64_t tokens = 0;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  double seconds = 0;           // first start to last end
  std::vector<double> ttft_ms;  // per request
  std::vector<double> itl_ms;   // per gap between messages of one request
  // While min(concurrency, requests) streams decoded at once; 0 when they never did.
  int64_t steady_tokens = 0;
  double steady_seconds = 0;
  double steady_tokens_per_s = 0;
  double tokens_per_s() const { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }
};

LoadResult RunLoad(const LoadOptions& options);

}  // namespace reprise::cli

#endif  // REPRISE_CLI_LOAD_H_
