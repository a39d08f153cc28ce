// What random stories about SessionCore share: a request that defines every token it gives, what a
// worker says of it, and the record of a client that must see each index once, with the right
// value. Test only.
#ifndef REPRISE_GATEWAY_GENERATION_CORE_RANDOM_REQUEST_H_
#define REPRISE_GATEWAY_GENERATION_CORE_RANDOM_REQUEST_H_

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "gateway/generation/core/session_core.h"

namespace reprise::gateway {

// Workers and checkers agree on it and on nothing else.
struct RandomRequest {
  static constexpr int32_t kVocab = 1000;
  static constexpr int32_t kEos = 7;

  RandomRequest(uint64_t s, SplitMix64& random)
      : seed(s),
        n(1 + static_cast<uint32_t>(random.Below(3))),
        max_tokens(1 + static_cast<uint32_t>(random.Below(40))) {}

  int32_t Token(uint32_t branch, uint32_t index) const {
    SplitMix64 random(seed ^ (uint64_t{branch} << 32 | index) * 0x9e3779b97f4a7c15u);
    return static_cast<int32_t>(random.Below(kVocab));
  }
  uint32_t Length(uint32_t branch) const {
    uint32_t length = 0;
    while (length < max_tokens && Token(branch, length++) != kEos) {
    }
    return length;
  }
  EndReason Reason(uint32_t branch) const {
    return Token(branch, Length(branch) - 1) == kEos ? EndReason::kEos : EndReason::kLength;
  }
  SessionSpec Spec(TimeNs deadline) const {
    SessionSpec spec;
    spec.n = static_cast<int32_t>(n);
    spec.vocab_size = kVocab;
    spec.max_tokens = static_cast<int32_t>(max_tokens);
    spec.eos_ids = {kEos};
    spec.deadline = deadline;
    spec.failures_max = 1000;
    return spec;
  }

  const uint64_t seed;
  const uint32_t n;
  const uint32_t max_tokens;
};

// One message of a worker to stream number `stream`.
struct WorkerMessage {
  uint64_t stream = 0;
  Attempt attempt;
  std::optional<AttachedInfo> attached{};
  std::vector<TokenEvent> tokens{};
  std::vector<BranchEnd> ended{};
  std::optional<WorkerDone> done{};

  // The token, and its branch's end when it is the last.
  void Tell(const RandomRequest& request, uint32_t branch, uint32_t index) {
    const int32_t id = request.Token(branch, index);
    tokens.push_back({branch, index, id, -0.001f * static_cast<float>(id), 0});
    if (index + 1 == request.Length(branch)) ended.push_back({branch, request.Reason(branch)});
  }
  void ArriveAt(SessionCore& core, TimeNs now, Actions& actions) const {
    core.OnWorkerEvents({.attempt = attempt,
                         .tokens = tokens,
                         .ended = ended,
                         .done = done ? &*done : nullptr,
                         .attached = attached ? &*attached : nullptr},
                        now, actions);
  }
};

// What the client has, over all its streams.
class ClientRecord {
 public:
  explicit ClientRecord(const RandomRequest& request) : request_(request), ids_(request.n) {}

  void Take(const std::vector<TokenEvent>& delivered) {
    for (const TokenEvent& token : delivered) {
      ASSERT_EQ(token.index, ids_[token.branch].size());
      ASSERT_EQ(token.id, request_.Token(token.branch, token.index));
      ids_[token.branch].push_back(token.id);
    }
  }
  void ExpectWhole() const {
    for (uint32_t b = 0; b < request_.n; ++b) {
      EXPECT_EQ(ids_[b].size(), request_.Length(b)) << "branch " << b;
    }
  }
  const std::vector<std::vector<int32_t>>& ids() const { return ids_; }

 private:
  const RandomRequest& request_;
  std::vector<std::vector<int32_t>> ids_;
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_GENERATION_CORE_RANDOM_REQUEST_H_
