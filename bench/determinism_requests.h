// The requests of the determinism benchmark and what is compared about their answers: token ids and
// logprob bits, against another run's and against the model fed with the transcript. Pure but for
// the model it is given; one thread.
#ifndef REPRISE_BENCH_DETERMINISM_REQUESTS_H_
#define REPRISE_BENCH_DETERMINISM_REQUESTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "gateway/text/tokenizer.h"
#include "kernels/ops.h"
#include "reprise/v1/cluster.pb.h"
#include "tests/cluster/worker_client.h"
#include "worker/model/offline.h"

namespace reprise::bench {

inline constexpr int kBlockTokens = 16;
inline constexpr int kNewTokens = 128;
inline constexpr int kRequests = 16;

struct Request {
  std::vector<int32_t> prompt;
  v1::ResolvedSampling sampling;
  int block_tokens = kBlockTokens;
  int32_t whole_blocks() const { return static_cast<int32_t>(prompt.size()) / block_tokens; }
};

struct RequestSizes {
  int requests = kRequests;
  int block_tokens = kBlockTokens;
  int first_prompt_tokens = 3 * kBlockTokens;  // the others' grow evenly
  int last_prompt_tokens = 6 * kBlockTokens;
  int new_tokens = kNewTokens;
};

// Even ones greedy, odd ones at temperature 1 with top-p, penalties and two branches.
StatusOr<std::vector<Request>> MakeRequests(const Tokenizer& tokenizer, const RequestSizes& sizes);
// Short prompt, greedy, until the context is full: older than what runs beside it, so it takes the
// pages and the others give way.
Request MakePressure(const Tokenizer& tokenizer, int32_t context_tokens);

v1::Submit MakeSubmit(const Request& request, const std::string& id, const std::string& tenant);

struct Mismatches {
  int64_t tokens = 0;
  int64_t logprob_bits = 0;
  int64_t compared = 0;
  Mismatches& operator+=(const Mismatches& other);
};
Mismatches Compare(const harness::WorkerResult& want, const harness::WorkerResult& got);

// Feeds prompt and answer of each branch to the model as one prompt, `chunk_tokens` at a time (0:
// all at once), and samples anew at every generated position.
StatusOr<Mismatches> CompareTranscript(const Request& request, const harness::WorkerResult& answer,
                                       const kernels::CpuOps& ops, int64_t chunk_tokens,
                                       worker::OfflineModel& model);

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_DETERMINISM_REQUESTS_H_
