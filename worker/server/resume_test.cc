// Requests outlive their gateways' streams: whole workers over real gRPC, with the timed engine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/sha256.h"
#include "worker/server/worker_main_fixture.h"

namespace reprise::worker {
namespace {

constexpr char kHandle[] = "0123456789abcdef";

class ResumeTest : public WorkerMainTest {
 protected:
  WorkerOptions Slow() {
    WorkerOptions options = Options("w");
    options.timed_settings.step_ms = 2;
    return options;
  }
  v1::Submit Resumable(int max_tokens, int64_t window_ms) {
    v1::Submit submit = Request(coordinator_.WaitFor("w"), "r", 20, max_tokens);
    submit.set_resume_handle(kHandle);
    submit.set_resume_window_ms(window_ms);
    return submit;
  }
  v1::Attach AttachTo(const v1::Submit& submit, uint64_t epoch) {
    v1::Attach attach;
    attach.set_request_id(submit.request_id());
    attach.mutable_attempt()->set_owner_epoch(epoch);
    attach.mutable_attempt()->set_n(1);
    attach.set_worker_incarnation(submit.worker_incarnation());
    attach.set_resume_handle(submit.resume_handle());
    return attach;
  }
};

TEST_F(ResumeTest, AnotherGatewayAttachesAndGetsEveryTokenFromTheFirst) {
  Running worker(Slow());
  const std::string address = worker.WaitReady().grpc;
  const v1::Submit request = Resumable(200, 20'000);
  {
    Client leaving(address);
    leaving.Submit(request);
    leaving.WaitForToken("r", 5);
  }
  Client other(address);
  other.Attach(AttachTo(request, 2));
  EXPECT_EQ(other.Wait("r").code(), 0);
  EXPECT_EQ(other.ids["r"], Expected(request));
  EXPECT_EQ(other.attached["r"].prompt_size(), 20);
  EXPECT_EQ(other.attached["r"].sampling().seed(), request.sampling().seed());
  EXPECT_EQ(other.attached["r"].resume_window_ms(), 20'000);
  // It has ended, but this gateway's stream may have broken before it read that.
  Client third(address);
  third.Attach(AttachTo(request, 3));
  EXPECT_EQ(third.Wait("r").code(), 0);
  EXPECT_EQ(third.ids["r"], Expected(request));
}

TEST_F(ResumeTest, AReportNamesTheRequestAndTheDigestOfItsHandle) {
  Running worker(Slow());
  Client client(worker.WaitReady().grpc);
  const v1::Submit request = Resumable(4'000, 20'000);
  client.Submit(request);
  client.WaitForToken("r");
  const Digest256 digest = Sha256().Update(kHandle).Finish();
  const std::string expected(digest.begin(), digest.end());
  EXPECT_TRUE(coordinator_.WaitForReport("w", [&](const v1::Load&, const auto& requests) {
    return requests.size() == 1 && requests[0].handle_digest() == expected &&
           requests[0].decoding() && requests[0].request_id() == "r";
  }));
  client.Cancel("r");
  EXPECT_EQ(client.Wait("r").code(), static_cast<int>(absl::StatusCode::kCancelled));
}

TEST_F(ResumeTest, TheHandleIsNeededAndAfterTheWindowNothingIsHeld) {
  Running worker(Slow());
  const std::string address = worker.WaitReady().grpc;
  const v1::Submit request = Resumable(4'000, 300);
  Client client(address);
  client.Submit(request);
  client.WaitForToken("r");
  Client thief(address);
  v1::Attach wrong = AttachTo(request, 9);
  wrong.set_resume_handle("0123456789abcdeX");
  thief.Attach(wrong);
  EXPECT_EQ(thief.Wait("r").code(), static_cast<int>(absl::StatusCode::kPermissionDenied));

  EXPECT_TRUE(coordinator_.WaitForReport(
      "w", [](const v1::Load&, const auto& requests) { return requests.size() == 1; }));
  client.Detach(request);
  EXPECT_TRUE(coordinator_.WaitForReport("w", [](const v1::Load& load, const auto& requests) {
    return requests.empty() && load.running() == 0 && load.blocks_total() > 0 &&
           load.blocks_free() + load.blocks_cached() == load.blocks_total() &&
           load.stranded_bytes() == 0;
  }));
  Client late(address);
  late.Attach(AttachTo(request, 2));
  EXPECT_EQ(late.Wait("r").code(), static_cast<int>(absl::StatusCode::kNotFound));
}

TEST_F(ResumeTest, AStreamWithRequestsHearsThatTheWorkerLives) {
  WorkerOptions options = Slow();
  options.timed_settings.step_ms = 1'500;  // no token for longer than a beat
  options.drain_deadline_ms = 0;
  Running worker(options);
  Client client(worker.WaitReady().grpc);
  client.Submit(Resumable(4'000, 0));
  const v1::ServeResponse beat = client.WaitForBeat();
  EXPECT_EQ(beat.events_size(), 0);
  EXPECT_TRUE(beat.busy());
}

TEST_F(ResumeTest, AWorkerThatStopsSendsItsStreamsAway) {
  Running worker(Slow());
  Client client(worker.WaitReady().grpc);
  client.Submit(Resumable(4'000, 20'000));
  client.WaitForToken("r");
  EXPECT_TRUE(worker.Stop().ok());
  EXPECT_EQ(client.Wait("r").code(), static_cast<int>(absl::StatusCode::kUnavailable));
}

TEST_F(ResumeTest, OrdersOfALeaderLongReplacedAreRefused) {
  Running worker(Slow());
  Client client(worker.WaitReady().grpc);
  v1::Submit request = Resumable(5, 0);
  request.set_leader_epoch(7);
  client.Submit(request);
  EXPECT_EQ(client.Wait("r").code(), 0);
  request.set_request_id("stale");
  request.set_leader_epoch(6);
  client.Submit(request);
  EXPECT_EQ(client.Wait("stale").code(), static_cast<int>(absl::StatusCode::kAborted));
}

}  // namespace
}  // namespace reprise::worker
