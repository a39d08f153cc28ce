// A load of streams over several gateways in which every token is compared with what an
// undisturbed run gives. The client resumes by itself, as a user's would. Any thread.
//
// Invariants:
// 1. At most `in_flight` streams run at a time; each ends with one StreamResult.
// 2. The destructor ends all streams that still run.
#ifndef REPRISE_TESTS_CLUSTER_CHECKED_LOAD_H_
#define REPRISE_TESTS_CLUSTER_CHECKED_LOAD_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "reprise/v1/generation.pb.h"
#include "tests/cluster/stream_check.h"
#include "worker/engine/timed_tokens.h"

namespace reprise::harness {

struct CheckedRequest {
  v1::GenerateRequest request;
  Transcript expected;
};

struct CheckedLoadOptions {
  std::vector<std::string> gateways;
  int in_flight = 1;
  int64_t requests = 0;                                // in all; 0: until Stop
  int connections = 4;                                 // to each gateway
  std::function<CheckedRequest(int64_t number)> make;  // on any thread
};

// Sums over streams.
struct LoadTotals {
  int64_t streams = 0;
  int64_t hit = 0;
  int64_t errors = 0;
  int64_t received = 0;
  int64_t lost = 0;
  int64_t duplicated = 0;
  int64_t different = 0;
  Status first_error;
  std::vector<double> hit_gaps_ms;        // each hit stream's longest
  std::vector<double> untouched_gaps_ms;  // each other stream's longest
  std::vector<double> ttft_ms;
};
LoadTotals Sum(const std::vector<StreamResult>& results);

class CheckedLoad {
 public:
  // Starts at once.
  explicit CheckedLoad(CheckedLoadOptions options);
  ~CheckedLoad();

  // Starts no more streams and waits for those that run; DEADLINE_EXCEEDED names how many did not
  // end in time.
  Status Stop(TimeNs timeout_ns);
  // Until all `requests` have ended.
  Status Wait(TimeNs timeout_ns);
  // Until so many tokens (of all streams) have been received in all.
  Status WaitForTokens(int64_t tokens, TimeNs timeout_ns);
  int64_t tokens() const;
  int running() const;
  std::vector<StreamResult> results() const;  // of streams that have ended

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

// Request `number` for the timed engine: a prompt of its own and a seed, and the tokens it gives.
CheckedRequest TimedRequest(const worker::TimedModel& model, int64_t number, int prompt_tokens,
                            int max_tokens, int branches = 1);

// Runs the requests one after the other, undisturbed, for their transcripts.
StatusOr<std::vector<CheckedRequest>> RunForTranscripts(
    const std::string& gateway, const std::vector<v1::GenerateRequest>& requests);
// The requests in turn, again and again; they outlive the load.
CheckedLoadOptions InTurn(std::vector<std::string> gateways, int in_flight,
                          const std::vector<CheckedRequest>& requests);

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_CLUSTER_CHECKED_LOAD_H_
