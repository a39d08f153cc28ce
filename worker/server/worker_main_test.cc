// Whole workers over real gRPC and the real KV stream, with the timed engine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "worker/group/silent_door.h"
#include "worker/model/test_models.h"
#include "worker/server/worker_main_fixture.h"

namespace reprise::worker {
namespace {

TEST_F(WorkerMainTest, ServesAGatewayAndReportsWhatItHolds) {
  Running worker(Options("w"));
  Client client(worker.WaitReady().grpc);
  const v1::NodeInfo node = coordinator_.WaitFor("w");
  EXPECT_EQ(node.model().block_tokens(), 8);
  EXPECT_TRUE(node.can_decode() && node.can_prefill());
  const v1::Submit request = Request(node, "r", 45, 20);
  client.Submit(request);
  EXPECT_EQ(client.Wait("r").code(), 0);
  EXPECT_EQ(client.ids["r"], Expected(request));
  EXPECT_TRUE(coordinator_.WaitForBlocks(8));  // of 64 rows
}

TEST_F(WorkerMainTest, APrefillWorkerComputesThePromptAndTheTokensAreTheSame) {
  WorkerOptions prefill_only = Options("p");
  prefill_only.decode = false;
  Running decode(Options("d"));
  Running prefill(prefill_only);
  prefill.WaitReady();
  Client client(decode.WaitReady().grpc);
  v1::Submit request = Request(coordinator_.WaitFor("d"), "r", 61, 20);
  *request.mutable_prefill() = coordinator_.WaitFor("p").ref();
  client.Submit(request);
  EXPECT_EQ(client.Wait("r").code(), 0);
  EXPECT_EQ(client.ids["r"], Expected(request));
}

TEST_F(WorkerMainTest, APrefillNodeThatIsGoneIsReplacedByLocalWork) {
  v1::NodeRef gone;
  {
    Running prefill(Options("p"));
    prefill.WaitReady();
    gone = coordinator_.WaitFor("p").ref();
  }
  Running decode(Options("d"));
  Client client(decode.WaitReady().grpc);
  v1::Submit request = Request(coordinator_.WaitFor("d"), "r", 40, 5);
  *request.mutable_prefill() = gone;
  client.Submit(request);
  EXPECT_EQ(client.Wait("r").code(), 0);
  EXPECT_EQ(client.ids["r"], Expected(request));
}

TEST_F(WorkerMainTest, CancelEndsARequestOnceWithItsReason) {
  WorkerOptions slow = Options("w");
  slow.timed_settings.step_ms = 2;
  Running worker(slow);
  Client client(worker.WaitReady().grpc);
  client.Submit(Request(coordinator_.WaitFor("w"), "r", 10, 4000));
  client.WaitForToken("r");
  client.Cancel("r");
  EXPECT_EQ(client.Wait("r").code(), static_cast<int>(absl::StatusCode::kCancelled));
}

TEST_F(WorkerMainTest, RefusalsNameTheirReason) {
  Running worker(Options("w"));
  Client client(worker.WaitReady().grpc);
  const v1::NodeInfo node = coordinator_.WaitFor("w");
  v1::Submit request = Request(node, "wrong", 10, 5);
  request.set_worker_incarnation(node.ref().incarnation() + 1);
  client.Submit(request);
  EXPECT_EQ(client.Wait("wrong").code(), static_cast<int>(absl::StatusCode::kAborted));
  request = Request(node, "bad", 10, 5);
  request.mutable_sampling()->set_n(100);
  client.Submit(request);
  EXPECT_THAT(client.Wait("bad").message(), testing::HasSubstr("n is 100"));
  client.Submit(Request(node, "long", 8192, 5));
  EXPECT_THAT(client.Wait("long").message(), testing::HasSubstr("context of 8192"));
}

TEST_F(WorkerMainTest, AGatewayThatLeavesTakesItsRequestsAlong) {
  WorkerOptions slow = Options("w");
  slow.timed_settings.step_ms = 2;
  slow.running_max = 1;
  Running worker(slow);
  const std::string address = worker.WaitReady().grpc;
  const v1::NodeInfo node = coordinator_.WaitFor("w");
  {
    Client leaving(address);
    leaving.Submit(Request(node, "first", 10, 4000));
    leaving.WaitForToken("first");
  }
  Client staying(address);
  const v1::Submit request = Request(node, "second", 12, 3);
  staying.Submit(request);  // the only slot is free again
  EXPECT_EQ(staying.Wait("second").code(), 0);
  EXPECT_EQ(staying.ids["second"], Expected(request));
}

TEST_F(WorkerMainTest, LivesWithoutACoordinatorAndSaysGoodbyeToOne) {
  WorkerOptions alone = Options("alone");
  alone.coordinator = "127.0.0.1:1";  // nobody answers
  {
    Running worker(alone);
    Client client(worker.WaitReady().grpc);
  }
  {
    Running worker(Options("w"));
    worker.WaitReady();
    coordinator_.WaitFor("w");
  }
  EXPECT_TRUE(coordinator_.left());
}

TEST_F(WorkerMainTest, AWorkerWhoseGroupIsNotFormedYetEndsWhenToldTo) {
  SilentDoor rank;
  WorkerOptions options = Options("w");
  options.timed = false;
  options.model = TestModel(WidePreset("tiny"));
  options.group = "tp2";
  options.ranks = rank.address();
  StopSignal stop;
  Status ended;
  Thread worker("worker", [&] { ended = RunWorker(options, {.stop = &stop, .ready = nullptr}); });
  rank.WaitForCaller();
  stop.Stop();
  worker.Join();
  EXPECT_EQ(ended.code(), absl::StatusCode::kCancelled) << ended;
}

TEST_F(WorkerMainTest, BadOptionsAreRefusedByName) {
  StopSignal stop;
  WorkerOptions options = Options("w");
  options.listen = "0.0.0.0:0";
  EXPECT_EQ(RunWorker(options, {.stop = &stop, .ready = nullptr}).code(),
            absl::StatusCode::kPermissionDenied);
  options = Options("w");
  options.running_max = 0;
  EXPECT_THAT(std::string(RunWorker(options, {.stop = &stop, .ready = nullptr}).message()),
              testing::HasSubstr("running_max is 0"));
}

}  // namespace
}  // namespace reprise::worker
