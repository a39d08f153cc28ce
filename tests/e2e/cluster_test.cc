// The demo model served by a whole cluster of real processes, as `reprise up` starts it: what a
// user sees, and what he sees when a worker is killed in mid-answer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "cli/client/generation_client.h"
#include "common/scrape.h"
#include "common/subprocess.h"
#include "common/test_data.h"
#include "tests/cluster/up.h"

namespace reprise {
namespace {

using harness::Up;

constexpr char kProgram[] = "cli/reprise";
constexpr int kNodes = 5;

v1::GenerateRequest Story(uint64_t seed, int max_tokens) {
  v1::GenerateRequest request;
  request.set_text(
      "Once upon a time there was a little girl who lived near the sea. Every day she walked along "
      "the beach and looked for shells. One morning she found a");
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(seed);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

StatusOr<std::string> OutputOf(const std::vector<std::string>& argv, ExitStatus* exit) {
  SubprocessOptions options;
  options.argv = argv;
  options.out = SubprocessOutput::Pipe();
  options.err = options.out;
  ASSIGN_OR_RETURN(const auto process, Subprocess::Spawn(options));
  std::string text;
  char buffer[4096];
  for (const int fd : {process->out_fd(), process->err_fd()}) {
    for (ssize_t n; fd >= 0 && (n = read(fd, buffer, sizeof buffer)) > 0;) {
      text.append(buffer, static_cast<size_t>(n));
    }
  }
  *exit = process->Wait();
  return text;
}

// One cluster for all tests of the suite. The scalar kernels give the same bits as the others, and
// answers slow enough to be interrupted.
class ClusterTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto up = Up::Start(kProgram, ProjectFile("models/demo"),
                        {"--block-tokens=16", "--worker-flag=--isa=scalar"});
    ASSERT_TRUE(up.ok()) << up.status();
    up_ = up->release();
    client_ = new client::GenerationClient({.address = up_->gateway()});
  }
  static void TearDownTestSuite() {
    delete client_;
    delete up_;
  }
  void SetUp() override { ASSERT_NE(up_, nullptr) << "the cluster did not start"; }

  static Up* up_;
  static client::GenerationClient* client_;
};
Up* ClusterTest::up_ = nullptr;
client::GenerationClient* ClusterTest::client_ = nullptr;

TEST_F(ClusterTest, AnswersInManyEventsAndFindsThePrefixTheSecondTime) {
  int messages = 0;
  const auto first = client_->Generate(
      Story(5, 64), [&](const v1::GenerateEvent& e) { messages += e.has_tokens(); });
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_GT(messages, 10);
  EXPECT_EQ(first->branches[0].ids.size(), 64u);
  EXPECT_EQ(first->finished.usage().cached_tokens(), 0);
  EXPECT_EQ(first->finished.usage().attempts(), 1);

  const auto second = client_->Generate(Story(5, 64));
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->branches[0].text, first->branches[0].text);
  EXPECT_EQ(second->branches[0].logprobs, first->branches[0].logprobs);
  EXPECT_GE(second->finished.usage().cached_tokens(), 16);
}

TEST_F(ClusterTest, AWorkerKilledInMidAnswerChangesNoToken) {
  const auto undisturbed = client_->Generate(Story(8, 190));
  ASSERT_TRUE(undisturbed.ok()) << undisturbed.status();
  std::string killed;
  size_t seen = 0;
  const auto disturbed = client_->Generate(Story(8, 190), [&](const v1::GenerateEvent& event) {
    seen += static_cast<size_t>(event.tokens().tokens_size());
    if (!killed.empty() || seen < 20) return;
    for (const char* name : {"decode-0", "decode-1"}) {
      const auto page = ScrapeMetrics(up_->addresses().at(name).metrics);
      const auto pid = up_->ChildPid(name);
      if (!page.ok() || !pid.ok() || *SumOfFamily(*page, "reprise_worker_running") < 1) continue;
      ASSERT_EQ(kill(*pid, SIGKILL), 0);
      killed = name;
      return;
    }
  });
  ASSERT_TRUE(disturbed.ok()) << disturbed.status();
  ASSERT_FALSE(killed.empty()) << "no decode worker was at work after " << seen << " tokens";
  EXPECT_GE(disturbed->finished.usage().attempts(), 2) << "killed too late";
  EXPECT_EQ(disturbed->branches[0].ids, undisturbed->branches[0].ids);
  EXPECT_EQ(disturbed->branches[0].logprobs, undisturbed->branches[0].logprobs);
  EXPECT_EQ(disturbed->branches[0].text, undisturbed->branches[0].text);
  // It comes back by itself, under its name.
  const Status live = up_->WaitLive(kNodes);
  EXPECT_TRUE(live.ok()) << live;
  EXPECT_TRUE(up_->ChildPid(killed).ok());
}

TEST_F(ClusterTest, StatusNamesEveryNode) {
  ExitStatus exit;
  const auto text = OutputOf({kProgram, "status", "--state-dir=" + up_->state_dir()}, &exit);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_TRUE(exit.ok()) << exit.ToString() << *text;
  for (const char* name : {"prefill-0", "decode-0", "decode-1", "store-0", "store-1", "gateway"}) {
    EXPECT_THAT(*text, testing::HasSubstr(name));
  }
}

TEST_F(ClusterTest, ASecondClusterInTheSameFolderIsRefused) {
  ExitStatus exit;
  const auto text = OutputOf({kProgram, "up", ProjectFile("models/demo"),
                              "--state-dir=" + up_->state_dir(), "--listen=127.0.0.1:0"},
                             &exit);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(exit.code, 1);
  EXPECT_THAT(*text, testing::HasSubstr("a cluster runs already"));
  const auto still = client_->Tokenize("a");
  EXPECT_TRUE(still.ok()) << still.status();
}

TEST_F(ClusterTest, EveryProcessHasAMetricsDoor) {
  for (const auto& [name, addresses] : up_->addresses()) {
    const auto page = ScrapeMetrics(addresses.metrics);
    if (name == "decode-0" || name == "decode-1") continue;  // one was killed and moved its door
    ASSERT_TRUE(page.ok()) << name << ": " << page.status();
    EXPECT_EQ(SumOfFamily(*page, "reprise_build_info").value_or(-1), 1) << name;
  }
  const auto status = up_->QueryStatus();
  ASSERT_TRUE(status.ok()) << status.status();
  for (const v1::NodeStatus& node : status->nodes()) {
    if (node.state() != "live") continue;
    const auto page = ScrapeMetrics(node.node().metrics_address());
    EXPECT_TRUE(page.ok()) << node.node().ref().name() << ": " << page.status();
  }
}

// The families of an exposition text that are ours.
std::set<std::string> FamiliesOf(const std::string& page) {
  constexpr absl::string_view kType = "# TYPE ";
  std::set<std::string> families;
  for (absl::string_view line : absl::StrSplit(page, '\n')) {
    if (!absl::ConsumePrefix(&line, kType) || !absl::StartsWith(line, "reprise_")) continue;
    families.emplace(line.substr(0, line.find(' ')));
  }
  return families;
}

// The names in the tables of docs/metrics.md.
std::set<std::string> FamiliesOnThePage() {
  constexpr absl::string_view kRow = "| `";
  std::ifstream file(ProjectFile("docs/metrics.md"));
  std::set<std::string> families;
  for (std::string line; std::getline(file, line);) {
    absl::string_view rest = line;
    if (!absl::ConsumePrefix(&rest, kRow)) continue;
    families.emplace(rest.substr(0, rest.find_first_of("`{")));
  }
  return families;
}

std::set<std::string> Without(std::set<std::string> all, const std::set<std::string>& some) {
  for (const std::string& one : some) all.erase(one);
  return all;
}

TEST_F(ClusterTest, EverySeriesIsOnTheMetricsPageAndTheOtherWayRound) {
  std::set<std::string> served;
  const auto status = up_->QueryStatus();
  ASSERT_TRUE(status.ok()) << status.status();
  std::vector<std::string> doors = {up_->addresses().at("coordinator").metrics};
  for (const v1::NodeStatus& node : status->nodes()) {
    if (node.state() == "live") doors.push_back(node.node().metrics_address());
  }
  for (const std::string& door : doors) {
    const auto page = ScrapeMetrics(door);
    ASSERT_TRUE(page.ok()) << door << ": " << page.status();
    served.merge(FamiliesOf(*page));
  }
  const std::set<std::string> page = FamiliesOnThePage();
  EXPECT_THAT(Without(served, page), testing::IsEmpty()) << "served, and not on the page";
  EXPECT_THAT(Without(page, served), testing::IsEmpty()) << "on the page, and not served";
}

}  // namespace
}  // namespace reprise
