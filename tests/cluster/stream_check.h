// Compares what one stream receives, token by token, with what an undisturbed run gives, and keeps
// the times that matter. Owned by the load generator; one call at a time. Pure: time comes in.
//
// Invariant: every token of the expected transcript ends up in exactly one of received and lost,
// and every token beyond that in duplicated or different.
#ifndef REPRISE_TESTS_CLUSTER_STREAM_CHECK_H_
#define REPRISE_TESTS_CLUSTER_STREAM_CHECK_H_

#include <cstdint>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "reprise/v1/generation.pb.h"

namespace reprise::harness {

struct TranscriptToken {
  int32_t id = 0;
  float logprob = 0;
};
using Transcript = std::vector<std::vector<TranscriptToken>>;  // by branch

// What became of one stream.
struct StreamResult {
  int64_t number = 0;  // of the request in the load
  Status status;       // of the call, of Finished.code, or what the stream broke
  int64_t received = 0;
  int64_t lost = 0;
  int64_t duplicated = 0;
  int64_t different = 0;  // wrong id or logprob bits, out of order, or never asked for
  TimeNs start_ns = 0;
  TimeNs end_ns = 0;
  TimeNs first_ns = 0;        // first token; 0: none came
  TimeNs longest_gap_ns = 0;  // without a token, from the start to the last token
  TimeNs gap_from_ns = 0;     // when that began
  int32_t attempts = 0;       // placements, by the gateway's word
  int32_t resumes = 0;        // by the client

  // Somebody it depended on failed: it was placed again or resumed.
  bool hit() const { return attempts > 1 || resumes > 0; }
  bool exact() const { return status.ok() && lost == 0 && duplicated == 0 && different == 0; }
};

class StreamCheck {
 public:
  StreamCheck(int64_t number, Transcript expected, TimeNs now);

  void OnEvent(const v1::GenerateEvent& event, TimeNs now);
  void OnResume() { ++result_.resumes; }
  // The stream is over; `status` is the call's.
  StreamResult Finish(const Status& status, TimeNs now);
  int64_t received() const { return result_.received; }

 private:
  void Add(const v1::Token& token);

  const Transcript expected_;
  std::vector<std::vector<bool>> seen_;
  std::vector<int64_t> next_;  // by branch
  StreamResult result_;
  TimeNs last_ns_;
  bool finished_ = false;
};

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_CLUSTER_STREAM_CHECK_H_
