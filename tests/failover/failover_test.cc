// Each failure of "every role" once, on one standing cluster of real processes under load: every
// client receives exactly the tokens of an undisturbed run, and who had nothing to do with the
// failure does not notice it.
#include <gtest/gtest.h>

#include "tests/failover/cases.h"

namespace reprise::harness {
namespace {

constexpr int kStreams = 24;

class Failover : public testing::TestWithParam<Case> {
 protected:
  static void SetUpTestSuite() {
    auto cluster = StartCluster(StandingSetting("cli/reprise"));
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    cluster_ = cluster->release();
  }
  static void TearDownTestSuite() { delete cluster_; }

  static Cluster* cluster_;
  static int64_t next_request_;
};
Cluster* Failover::cluster_ = nullptr;
int64_t Failover::next_request_ = 0;

TEST_P(Failover, LeavesEveryStreamExact) {
  ASSERT_NE(cluster_, nullptr) << "the cluster did not start";
  const auto outcome =
      Play(*cluster_, StandingSetting("cli/reprise"), GetParam(), kStreams, next_request_);
  next_request_ += 1'000'000;
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  const Status verdict = Judge(GetParam(), *outcome);
  EXPECT_TRUE(verdict.ok()) << verdict;
}

INSTANTIATE_TEST_SUITE_P(EveryRole, Failover, testing::ValuesIn(EveryRole()),
                         [](const testing::TestParamInfo<Case>& info) {
                           std::string name = info.param.name;
                           for (char& c : name) {
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace reprise::harness
