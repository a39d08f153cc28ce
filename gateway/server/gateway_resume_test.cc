// Requests that outlive a stream, a gateway or a worker: real gRPC, scripted cluster.
#include "common/sha256.h"
#include "common/test_data.h"
#include "gateway/server/gateway_fixture.h"
#include "gateway/text/detokenizer.h"

namespace reprise::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::vector<int32_t> Prefix(const std::vector<int32_t>& ids, size_t tokens) {
  return {ids.begin(), ids.begin() + static_cast<ptrdiff_t>(tokens)};
}

// The same request again, by a client that has `received` of its one branch.
v1::GenerateRequest Resume(v1::GenerateRequest request, const v1::Accepted& accepted,
                           const std::vector<int32_t>& received) {
  request.set_request_id(accepted.request_id());
  request.mutable_sampling()->set_seed(accepted.seed());
  request.mutable_resume()->set_handle(accepted.resume_handle());
  request.mutable_resume()->add_received()->mutable_ids()->Assign(received.begin(), received.end());
  return request;
}

// What one resumed stream gives: its events as they are.
struct Rest {
  Status status;
  v1::Accepted accepted;
  std::vector<int32_t> ids;
  int32_t first_index = -1;
  std::string text;
  v1::Finished finished;
};
Rest Read(const std::string& address, const v1::GenerateRequest& request) {
  const auto stub =
      v1::Generation::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  Rest rest;
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
    if (event.has_accepted()) rest.accepted = event.accepted();
    for (const v1::Token& token : event.tokens().tokens()) {
      if (rest.first_index < 0) rest.first_index = token.index();
      EXPECT_EQ(token.index(), rest.first_index + static_cast<int32_t>(rest.ids.size()));
      rest.ids.push_back(token.id());
      rest.text += token.text();
    }
    if (event.has_branch_finished()) rest.text += event.branch_finished().text();
    if (event.has_finished()) rest.finished = event.finished();
  }
  rest.status = Status(static_cast<absl::StatusCode>(reader->Finish().error_code()), "");
  return rest;
}

class GatewayResumeTest : public GatewayTest {
 protected:
  // A request that worker a has given 5 of 12 tokens of, and whose first gateway is gone.
  void LoseTheGateway() {
    a_.FallSilentAfter(5);
    StartGateway();
    Reading reading(*client_, Request(12));
    reading.WaitForTokens(5);
    accepted_ = reading.WaitAccepted();
    StopGateway();
    const Status status = reading.Wait();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_FALSE(reading.completion().finished.has_usage()) << "it has not ended";
    EXPECT_EQ(reading.completion().branches[0].ids, Prefix(truth_, 5));
    gateway_.reset();
    a_.FallSilentAfter(INT32_MAX);
  }

  const std::vector<int32_t> truth_ = Truth(5, 0, 12);
  v1::Accepted accepted_;
};

TEST_F(GatewayResumeTest, AnotherGatewayAttachesWhenTheFirstIsGone) {
  LoseTheGateway();
  coordinator_.SetRunning(a_.ref());
  StartGateway();
  const Rest rest = Read(address_, Resume(Request(12), accepted_, Prefix(truth_, 3)));
  EXPECT_TRUE(rest.status.ok()) << rest.status;
  EXPECT_EQ(rest.first_index, 3);
  EXPECT_EQ(rest.ids, std::vector<int32_t>(truth_.begin() + 3, truth_.end()));
  EXPECT_EQ(rest.finished.code(), 0);
  EXPECT_EQ(rest.accepted.request_id(), accepted_.request_id());
  EXPECT_EQ(rest.accepted.resume_handle(), accepted_.resume_handle());
  EXPECT_EQ(rest.accepted.seed(), 5u);
  EXPECT_EQ(rest.accepted.prompt_tokens(), 9);
  const v1::Attach attach = a_.WaitForAttach(1);
  EXPECT_EQ(attach.attempt().owner_epoch(), 2u);
  EXPECT_EQ(attach.worker_incarnation(), 101u);
  EXPECT_EQ(a_.submits(), 1u) << "nothing is computed twice";
  const v1::PlaceRequest place = coordinator_.places().back();
  EXPECT_TRUE(place.attach());
  const Digest256 digest = Sha256().Update(accepted_.resume_handle()).Finish();
  EXPECT_EQ(place.handle_digest(), std::string(digest.begin(), digest.end()));
  EXPECT_EQ(coordinator_.places()[0].handle_digest(), place.handle_digest());
}

TEST_F(GatewayResumeTest, AttachingNeedsNoInput) {
  LoseTheGateway();
  coordinator_.SetRunning(a_.ref());
  StartGateway();
  v1::GenerateRequest bare;
  const Rest rest = Read(address_, Resume(bare, accepted_, Prefix(truth_, 5)));
  EXPECT_TRUE(rest.status.ok()) << rest.status;
  EXPECT_EQ(rest.first_index, 5);
  EXPECT_EQ(rest.ids, std::vector<int32_t>(truth_.begin() + 5, truth_.end()));
  EXPECT_EQ(rest.accepted.prompt_tokens(), 9);
  EXPECT_EQ(rest.accepted.seed(), 5u);
}

TEST_F(GatewayResumeTest, AnAttachedRequestSurvivesItsWorkerToo) {
  LoseTheGateway();
  coordinator_.SetRunning(a_.ref());
  a_.FallSilentAfter(8);
  StartGateway();
  v1::GenerateRequest bare;
  const auto resumed = Resume(bare, accepted_, {});
  Reading reading(*client_, resumed);
  reading.WaitForTokens(8);
  a_.Break();
  ASSERT_TRUE(reading.Wait().ok());
  EXPECT_EQ(reading.completion().branches[0].ids, truth_);
  const v1::Submit submit = b_.WaitForSubmit(1);
  EXPECT_EQ(submit.prompt_size(), 9) << "learnt from the worker that had it";
  EXPECT_EQ(submit.resume_handle(), accepted_.resume_handle());
  EXPECT_EQ(submit.branches(0).emitted_size(), 8);
}

TEST_F(GatewayResumeTest, WithGatewayAndWorkerLostTheTranscriptGoesOn) {
  LoseTheGateway();
  a_.Break();
  StartGateway();
  coordinator_.SetWorkers({b_.ref()});
  const Rest rest = Read(address_, Resume(Request(12), accepted_, Prefix(truth_, 4)));
  EXPECT_TRUE(rest.status.ok()) << rest.status;
  EXPECT_EQ(rest.first_index, 4);
  EXPECT_EQ(rest.ids, std::vector<int32_t>(truth_.begin() + 4, truth_.end()));
  const v1::Submit submit = b_.WaitForSubmit(1);
  ASSERT_THAT(submit.branches(), SizeIs(1));
  EXPECT_EQ(submit.branches(0).emitted_size(), 4);
  EXPECT_GT(submit.attempt().owner_epoch(), 1u);
  EXPECT_EQ(coordinator_.places().back().block_ids().size(), 3u * 16)
      << "three whole blocks of four in nine tokens and the four received";
}

TEST_F(GatewayResumeTest, AWorkerThatForgotItIsFollowedByTheTranscript) {
  LoseTheGateway();
  a_.Break();
  coordinator_.SetRunning(a_.ref());
  StartGateway();
  const Rest rest = Read(address_, Resume(Request(12), accepted_, Prefix(truth_, 5)));
  EXPECT_TRUE(rest.status.ok()) << rest.status;
  EXPECT_EQ(rest.ids, std::vector<int32_t>(truth_.begin() + 5, truth_.end()));
  EXPECT_EQ(coordinator_.places().back().previous().owner_epoch(), 2u);
}

TEST_F(GatewayResumeTest, WithoutInputALostRequestIsNotFound) {
  LoseTheGateway();
  a_.Break();
  StartGateway();
  v1::GenerateRequest bare;
  const Rest rest = Read(address_, Resume(bare, accepted_, Prefix(truth_, 5)));
  EXPECT_EQ(rest.status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(a_.submits() + b_.submits(), 1u);
}

TEST_F(GatewayResumeTest, ContradictingIdsEndOnlyTheirClientsStream) {
  LoseTheGateway();
  coordinator_.SetRunning(a_.ref());
  StartGateway();
  std::vector<int32_t> wrong = Prefix(truth_, 5);
  wrong[3] ^= 1;
  // Found in the first message, and found behind it, when the stream has been accepted.
  a_.SetTokensPerMessage(50);
  const Rest refused = Read(address_, Resume(Request(12), accepted_, wrong));
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.accepted.resume_handle(), IsEmpty());
  a_.SetTokensPerMessage(1);
  const Rest ended = Read(address_, Resume(Request(12), accepted_, wrong));
  EXPECT_TRUE(ended.status.ok()) << ended.status;
  EXPECT_EQ(ended.finished.code(), static_cast<int>(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ended.ids, IsEmpty());
  for (const uint64_t epoch : {2, 3}) {
    EXPECT_EQ(a_.WaitForDetach(epoch).request_id(), accepted_.request_id());
  }
  EXPECT_EQ(a_.cancels(), 0u) << "the request goes on";
  const Rest rest = Read(address_, Resume(Request(12), accepted_, Prefix(truth_, 5)));
  EXPECT_TRUE(rest.status.ok()) << rest.status;
  EXPECT_EQ(rest.ids, std::vector<int32_t>(truth_.begin() + 5, truth_.end()));
}

TEST_F(GatewayResumeTest, AnotherPromptUnderTheHandleIsRefused) {
  LoseTheGateway();
  coordinator_.SetRunning(a_.ref());
  StartGateway();
  v1::GenerateRequest other = Resume(Request(12), accepted_, {});
  other.mutable_ids()->add_ids(77);
  EXPECT_EQ(Read(address_, other).status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(a_.cancels(), 0u);
}

TEST_F(GatewayResumeTest, AWrongHandleAttachesNothing) {
  LoseTheGateway();
  coordinator_.SetRunning(a_.ref());
  StartGateway();
  v1::Accepted stranger = accepted_;
  stranger.set_resume_handle(std::string(16, 'x'));
  EXPECT_EQ(Read(address_, Resume(Request(12), stranger, {})).status.code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(b_.submits(), 0u);
}

TEST_F(GatewayResumeTest, AClientThatComesBackToTheSameGatewayTakesItsStreamOver) {
  a_.FallSilentAfter(5);
  StartGateway();
  Reading first(*client_, Request(12));
  first.WaitForTokens(5);
  a_.FallSilentAfter(INT32_MAX);
  coordinator_.SetRunning(a_.ref());
  const Rest rest = Read(address_, Resume(Request(12), first.WaitAccepted(), Prefix(truth_, 5)));
  EXPECT_TRUE(rest.status.ok()) << rest.status;
  EXPECT_EQ(rest.ids, std::vector<int32_t>(truth_.begin() + 5, truth_.end()));
  EXPECT_EQ(first.Wait().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(a_.cancels(), 0u);
}

TEST_F(GatewayResumeTest, AClientThatLeavesDetachesAndTheRequestWaits) {
  a_.FallSilentAfter(2);
  StartGateway();
  v1::GenerateRequest request = Request(8);
  request.set_resume_window_ms(4321);
  request.set_replicas(0);
  Reading reading(*client_, request);
  reading.WaitForTokens(2);
  reading.Abandon();
  EXPECT_EQ(reading.Wait().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(a_.WaitForDetach(1).attempt().n(), 1u);
  EXPECT_EQ(a_.cancels(), 0u);
  const v1::Submit submit = a_.WaitForSubmit(1);
  EXPECT_EQ(submit.resume_window_ms(), 4321);
  EXPECT_EQ(submit.resume_handle().size(), 16u);
  EXPECT_EQ(coordinator_.places()[0].replica_stores(), -1);
}

TEST_F(GatewayResumeTest, WithoutAWindowTheTranscriptIsAllThereIs) {
  a_.FallSilentAfter(5);
  StartGateway();
  v1::GenerateRequest request = Request(12);
  request.set_resume_window_ms(0);
  Reading reading(*client_, request);
  reading.WaitForTokens(5);
  reading.Abandon();
  (void)reading.Wait();
  EXPECT_EQ(a_.WaitForCancel(1).attempt().n(), 1u);
  a_.FallSilentAfter(INT32_MAX);
  const Rest rest =
      Read(address_, Resume(request, reading.completion().accepted, Prefix(truth_, 5)));
  EXPECT_TRUE(rest.status.ok()) << rest.status;
  EXPECT_EQ(rest.ids, std::vector<int32_t>(truth_.begin() + 5, truth_.end()));
}

TEST_F(GatewayResumeTest, ASlowReaderIsCutOffAndMayResume) {
  options_.stream_buffer_bytes_max = 32 << 10;
  a_.SetTokensPerMessage(50);
  StartGateway();
  v1::GenerateRequest request = Request(100'000);
  request.mutable_sampling()->set_top_logprobs(4);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  const auto stub = v1::Generation::NewStub(
      grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), arguments));
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  (void)a_.WaitForDetach(1);
  Completion completion;
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
    const Status added = completion.Add(event);
    ASSERT_TRUE(added.ok()) << added;
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_FALSE(completion.finished.has_usage());
  EXPECT_EQ(a_.cancels(), 0u);
}

// Detection ---------------------------------------------------------------------------------------

TEST_F(GatewayResumeTest, AWorkerWhoseHeartStopsIsReplaced) {
  a_.FallSilentAfter(3);
  a_.Beat();
  StartGateway();
  Reading reading(*client_, Request(8));
  reading.WaitForTokens(3);
  a_.StopBeating();
  ASSERT_TRUE(reading.Wait().ok());
  EXPECT_EQ(reading.completion().branches[0].ids, Truth(5, 0, 8));
  EXPECT_EQ(coordinator_.places()[1].crashes(), 0u);
}

TEST_F(GatewayResumeTest, AWorkerThatIsBusyWithoutProgressIsReplacedAsOneThatCrashed) {
  a_.FallSilentAfter(3);
  a_.Beat(/*stuck=*/true);
  StartGateway();
  Reading reading(*client_, Request(8));
  ASSERT_TRUE(reading.Wait().ok());
  EXPECT_EQ(reading.completion().branches[0].ids, Truth(5, 0, 8));
  EXPECT_EQ(coordinator_.places()[1].crashes(), 1u);
}

TEST_F(GatewayResumeTest, TheTextOfAResumedRequestGoesOnWhereItWas) {
  options_.model_dir = SharedDataOrSkip("stories260k/hf");
  if (options_.model_dir.empty()) {
    StartGateway();  // TearDown stops it
    GTEST_SKIP() << SharedDataMissing();
  }
  const std::vector<int32_t> ids = Truth(5, 0, 40);
  const auto tokenizer = Tokenizer::Load(options_.model_dir);
  ASSERT_TRUE(tokenizer.ok());
  for (const bool attach : {false, true}) {
    a_.FallSilentAfter(20);
    StartGateway();
    Reading reading(*client_, Request(40));
    reading.WaitForTokens(20);
    a_.FallSilentAfter(INT32_MAX);
    const v1::Accepted accepted = reading.WaitAccepted();
    coordinator_.SetRunning(attach ? a_.ref() : v1::NodeRef());
    for (size_t has = 1; has < 20; has += 6) {
      Detokenizer detokenizer(**tokenizer, {.skip_special = true, .at_text_start = false});
      std::string rest;
      for (size_t i = 0; i < ids.size(); ++i) {
        const std::string piece = detokenizer.Push(ids[i]);
        if (i >= has) rest += piece;
      }
      rest += detokenizer.Flush();
      EXPECT_EQ(Read(address_, Resume(Request(40), accepted, Prefix(ids, has))).text, rest)
          << "attach " << attach << ", behind " << has;
    }
    gateway_.reset();
  }
}

}  // namespace
}  // namespace reprise::gateway
