// What a client has of one request, and so how it goes on at another gateway: sees every event of
// every stream of the request, passes each on at most once, and makes the request that resumes it.
// Pure; owned by its stream, one thread at a time.
//
// Invariants:
// 1. Of all events passed on: Accepted once, every index of a branch once and in order, the end
//    of a branch once.
// 2. A repeated token that differs from the first is an error (INTERNAL), not passed on.
#ifndef REPRISE_CLI_CLIENT_TRANSCRIPT_H_
#define REPRISE_CLI_CLIENT_TRANSCRIPT_H_

#include <cstdint>
#include <vector>

#include "common/status.h"
#include "reprise/v1/generation.pb.h"

namespace reprise::client {

class Transcript {
 public:
  explicit Transcript(v1::GenerateRequest request);

  // Strips from `event` what was passed on before; true when something is left of it. INTERNAL when
  // it contradicts what there is.
  StatusOr<bool> Take(v1::GenerateEvent* event);

  bool accepted() const { return accepted_.resume_handle().size() > 0; }
  bool finished() const { return finished_; }
  int64_t tokens() const { return tokens_; }
  // With the id, seed, handle and received ids of this request; `elapsed_ms` since its start is
  // taken off its deadline.
  v1::GenerateRequest ResumeRequest(int64_t elapsed_ms) const;

 private:
  struct Branch {
    std::vector<int32_t> ids;
    bool ended = false;
  };
  Branch* At(int32_t branch);
  Status TakeTokens(v1::Tokens* tokens);

  const v1::GenerateRequest request_;
  v1::Accepted accepted_;
  std::vector<Branch> branches_;
  int64_t tokens_ = 0;
  bool finished_ = false;
};

}  // namespace reprise::client

#endif  // REPRISE_CLI_CLIENT_TRANSCRIPT_H_
