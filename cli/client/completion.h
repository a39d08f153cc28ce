// Everything one request gave, checked as it comes. A value; one thread at a time.
#ifndef REPRISE_CLI_CLIENT_COMPLETION_H_
#define REPRISE_CLI_CLIENT_COMPLETION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "reprise/v1/generation.pb.h"

namespace reprise::client {

struct Completion {
  struct Branch {
    std::vector<int32_t> ids;
    std::vector<float> logprobs;
    std::string text;
    v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
  };
  v1::Accepted accepted;
  std::vector<Branch> branches;
  v1::Finished finished;

  // Takes the next event of the stream. INTERNAL when the stream breaks its promises: an index out
  // of order, an event before Accepted or after Finished, a count that does not add up.
  Status Add(const v1::GenerateEvent& event);

 private:
  Status AddToken(const v1::Token& token);
};

}  // namespace reprise::client

#endif  // REPRISE_CLI_CLIENT_COMPLETION_H_
