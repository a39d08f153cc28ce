// `reprise up` with everything twice: two coordinators that elect a leader in a real etcd, and two
// gateways. Whoever is killed, the answer is the same.
#include "tests/cluster/up.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <memory>
#include <string>

#include "cli/client/generation_client.h"
#include "common/test_data.h"
#include "coordinator/leader/etcd_process.h"
#include "tests/cluster/scratch_dir.h"

namespace reprise {
namespace {

using harness::Up;

constexpr char kProgram[] = "cli/reprise";

v1::GenerateRequest Story(int max_tokens) {
  v1::GenerateRequest request;
  request.set_text("Once upon a time there was a little girl who");
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(5);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

TEST(UpGroupTest, TheLeaderAndAGatewayDieAndTheAnswerIsTheSame) {
  if (!EtcdProcess::Installed()) {
    GTEST_SKIP() << EtcdProcess::kBinary << " is not installed; run deploy/install.sh";
  }
  auto folder = harness::ScratchDir::Create();
  ASSERT_TRUE(folder.ok()) << folder.status();
  auto etcd = EtcdProcess::Start((*folder)->path());
  ASSERT_TRUE(etcd.ok()) << etcd.status();
  auto up = Up::Start(kProgram, ProjectFile("models/demo"),
                      {"--coordinators=2", "--gateways=2", "--prefill-workers=0", "--stores=1",
                       "--etcd=" + (*etcd)->address()},
                      {"coordinator-0", "coordinator-1", "decode-0", "decode-1", "store-0",
                       "gateway-0", "gateway-1"});
  ASSERT_TRUE(up.ok()) << up.status();
  Up& cluster = **up;
  client::GenerationClient client({.address = cluster.gateway()});
  const auto whole = client.Generate(Story(100));
  ASSERT_TRUE(whole.ok()) << whole.status();
  const auto status = cluster.QueryStatus();  // somebody leads: the request was placed
  ASSERT_TRUE(status.ok()) << status.status();
  const std::string leader = status->leader();

  for (const std::string& name : {leader, std::string("gateway-0")}) {
    const auto pid = cluster.ChildPid(name);
    ASSERT_TRUE(pid.ok()) << pid.status();
    ASSERT_EQ(kill(*pid, SIGKILL), 0);
  }
  const auto again = client.Generate(Story(100));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->branches[0].ids, whole->branches[0].ids);
}

TEST(UpGroupTest, AWorkerOfSeveralRanksIsOneNodeThatSaysItsShape) {
  auto up = Up::Start(
      kProgram, ProjectFile("models/demo"),
      {"--group=cp2", "--prefill-workers=0", "--decode-workers=1", "--stores=1"},
      {"coordinator", "decode-0", "store-0", "gateway"});  // rank 1 is no node of the cluster
  ASSERT_TRUE(up.ok()) << up.status();
  const auto status = (*up)->QueryStatus();
  ASSERT_TRUE(status.ok()) << status.status();
  int workers = 0;
  for (const v1::NodeStatus& node : status->nodes()) {
    if (node.node().role() != v1::ROLE_WORKER) {
      EXPECT_FALSE(node.node().has_group()) << node.node().ref().name();
      continue;
    }
    ++workers;
    EXPECT_EQ(node.node().group().ShortDebugString(),
              "pipeline: 1 context: 2 tensor: 1 stripe_leaves: 1");
  }
  EXPECT_EQ(workers, 1);
}

TEST(UpGroupTest, CoordinatorsWithoutAnElectionAreRefused) {
  const auto up =
      Up::Start(kProgram, ProjectFile("models/demo"), {"--coordinators=2"}, {"coordinator-0"});
  ASSERT_FALSE(up.ok());
  EXPECT_NE(std::string(up.status().message()).find("need --etcd"), std::string::npos)
      << up.status();
}

}  // namespace
}  // namespace reprise
