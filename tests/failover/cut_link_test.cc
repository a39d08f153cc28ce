// Cables are pulled: nodes with addresses of their own, in network namespaces, lose frames without
// a word on their KV link, or on all their links. Every client receives exactly the tokens of an
// undisturbed run, and who had nothing to do with it does not notice. Skipped where namespaces are
// not allowed.
#include <gtest/gtest.h>

#include "tests/failover/cases.h"

namespace reprise::harness {
namespace {

using Net = NetworkLab::Net;

constexpr int kStreams = 24;

class CutLink : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto lab = NetworkLab::Create();
    if (!lab.ok()) {
      why_not_ = new Status(lab.status());
      return;
    }
    lab_ = lab->release();
    auto cluster = StartCluster(LabSetting());
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    cluster_ = cluster->release();
  }
  static void TearDownTestSuite() {
    delete cluster_;
    delete lab_;
    delete why_not_;
  }
  void SetUp() override {
    if (why_not_ != nullptr) GTEST_SKIP() << *why_not_;
    ASSERT_NE(cluster_, nullptr) << "the cluster did not start";
  }

  static Setting LabSetting() {
    Setting setting = StandingSetting("cli/reprise");
    setting.coordinators = 1;
    setting.failpoints = false;
    setting.lab = lab_;
    return setting;
  }

  static Status GoesAndComesBack(Cluster& cluster, const std::string& name,
                                 const std::vector<Net>& nets) {
    for (const Net net : nets) RETURN_IF_ERROR(lab_->Cut(name, net));
    const Status moved = AwaitMovedAway(cluster, name);
    for (const Net net : nets) RETURN_IF_ERROR(lab_->Heal(name, net));
    return moved;
  }

  static void LeavesEveryStreamExact(const Case& story) {
    const auto outcome = Play(*cluster_, LabSetting(), story, kStreams, next_request_);
    next_request_ += 1'000'000;
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    const Status verdict = Judge(story, *outcome);
    EXPECT_TRUE(verdict.ok()) << verdict;
  }

  static NetworkLab* lab_;
  static Cluster* cluster_;
  static Status* why_not_;
  static int64_t next_request_;
};
NetworkLab* CutLink::lab_ = nullptr;
Cluster* CutLink::cluster_ = nullptr;
Status* CutLink::why_not_ = nullptr;
int64_t CutLink::next_request_ = 0;

TEST_F(CutLink, OfAWorkerToItsPeersAndStores) {
  LeavesEveryStreamExact(
      {.name = "a decode worker's KV cable is pulled",
       .happens = [](Cluster& c) { return GoesAndComesBack(c, "decode-1", {Net::kKv}); },
       .hit_share_max = 0.6,
       .must_hit = false});
}

TEST_F(CutLink, OfAWorkerToEverybody) {
  LeavesEveryStreamExact({.name = "all cables of a decode worker are pulled",
                          .happens =
                              [](Cluster& c) {
                                return GoesAndComesBack(c, "decode-2", {Net::kKv, Net::kOrders});
                              },
                          .hit_share_max = 0.6,
                          .restored = true});
}

TEST_F(CutLink, OfAStoreToEverybody) {
  LeavesEveryStreamExact({.name = "all cables of a store are pulled",
                          .happens =
                              [](Cluster& c) {
                                return GoesAndComesBack(c, "store-1", {Net::kKv, Net::kOrders});
                              },
                          .hit_share_max = 0,
                          .must_hit = false});
}

}  // namespace
}  // namespace reprise::harness
