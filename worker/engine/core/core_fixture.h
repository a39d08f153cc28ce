// What stories about the worker core share: requests, the tokens expected of them, and what came
// out.
#ifndef REPRISE_WORKER_ENGINE_CORE_CORE_FIXTURE_H_
#define REPRISE_WORKER_ENGINE_CORE_CORE_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "worker/engine/core/fake_cluster.h"

namespace reprise::worker {

class CoreTest : public testing::Test {
 protected:
  // Tokens of one kind differ from those of another from the first on.
  Submit Request(const std::string& id, int prompt, int max_tokens, int kind = 0) {
    Submit submit;
    submit.key = {id, {1, 1}};
    for (int i = 0; i < prompt; ++i) submit.prompt.push_back((i * 7 + 13 * kind) % 64);
    submit.sampling.max_tokens = max_tokens;
    submit.sampling.seed = 11;
    return submit;
  }
  std::vector<int32_t> Expected(const Submit& submit, uint32_t branch = 0) {
    std::vector<int32_t> ids;
    for (const SampledToken& token :
         ExpectedTimedTokens(cluster_.model(), submit.prompt, submit.sampling, branch)) {
      ids.push_back(token.id);
    }
    return ids;
  }
  std::vector<int32_t> Given(const RequestKey& key, uint32_t branch = 0) {
    std::vector<int32_t> ids;
    for (const BranchToken& token : cluster_.outcome(key).tokens[branch]) {
      ids.push_back(token.token.id);
    }
    return ids;
  }
  // Ended once and well, with the right tokens, and nothing held.
  void ExpectServed(const Submit& submit) {
    EXPECT_EQ(cluster_.trouble, "");
    const Outcome& outcome = cluster_.outcome(submit.key);
    ASSERT_EQ(outcome.dones.size(), 1u);
    EXPECT_TRUE(outcome.dones[0].status.ok()) << outcome.dones[0].status;
    for (int32_t b = 0; b < submit.sampling.n; ++b) {
      const auto branch = static_cast<uint32_t>(b);
      EXPECT_EQ(Given(submit.key, branch), Expected(submit, branch)) << "branch " << b;
    }
    EXPECT_EQ(cluster_.HeldPages(), 0);
  }
  Status RefusalOf(const RequestKey& key) {
    const Outcome& outcome = cluster_.outcome(key);
    return outcome.dones.size() == 1 ? outcome.dones[0].status : absl::OkStatus();
  }
  template <typename Command>
  std::vector<Command> Recorded() {
    std::vector<Command> found;
    for (const auto& command : commands_) {
      if (const auto* typed = std::get_if<Command>(&command)) found.push_back(*typed);
    }
    return found;
  }
  void Record() {
    cluster_.on_command = [this](const Command& command) { commands_.push_back(command); };
  }

  FakeCluster cluster_;
  std::vector<Command> commands_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_CORE_CORE_FIXTURE_H_
