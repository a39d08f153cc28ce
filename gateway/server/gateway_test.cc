// The gateway as a whole, over real gRPC, against a scripted coordinator and scripted workers.
#include "common/grpc_status.h"
#include "common/test_data.h"
#include "gateway/server/gateway_fixture.h"
#include "gateway/text/detokenizer.h"

namespace reprise::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST_F(GatewayTest, StreamsARequestFromAcceptedToFinished) {
  StartGateway();
  v1::GenerateRequest request = Request(12);
  request.mutable_sampling()->set_n(2);
  request.mutable_sampling()->set_top_logprobs(2);
  request.set_request_id("story-1");
  int top_entries = 0;
  const auto result = client_->Generate(request, [&](const v1::GenerateEvent& event) {
    for (const auto& token : event.tokens().tokens()) top_entries += token.top_size();
  });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->accepted.request_id(), "story-1");
  EXPECT_EQ(result->accepted.seed(), 5u);
  EXPECT_EQ(result->accepted.resume_handle().size(), 16u);
  EXPECT_EQ(result->accepted.prompt_tokens(), 9);
  ASSERT_THAT(result->branches, SizeIs(2));
  EXPECT_EQ(result->branches[0].ids, Truth(5, 0, 12));
  EXPECT_EQ(result->branches[1].ids, Truth(5, 1, 12));
  EXPECT_EQ(result->branches[0].logprobs[3], -0.5f);
  EXPECT_EQ(top_entries, 2 * 2 * 12);
  EXPECT_EQ(result->branches[1].reason, v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(result->finished.usage().prompt_tokens(), 9);
  EXPECT_EQ(result->finished.usage().cached_tokens(), 3);
  EXPECT_EQ(result->finished.usage().generated_tokens(), 24);
  EXPECT_EQ(result->finished.usage().attempts(), 1);
  ASSERT_THAT(result->finished.branches(), SizeIs(2));

  const auto places = coordinator_.places();
  ASSERT_THAT(places, SizeIs(1));
  EXPECT_FALSE(places[0].has_previous());
  EXPECT_EQ(places[0].block_ids().size(), 2u * 16) << "two whole blocks of four in nine tokens";
  const v1::Submit submit = a_.WaitForSubmit(1);
  EXPECT_EQ(submit.worker_incarnation(), 101u);
  EXPECT_THAT(submit.branches(), IsEmpty());
  EXPECT_GT(submit.deadline_ms(), 0);
}

TEST_F(GatewayTest, DrawsIdSeedAndHandleWhenTheyAreAbsent) {
  StartGateway();
  v1::GenerateRequest request = Request(1);
  request.mutable_sampling()->clear_seed();
  const auto first = client_->Generate(request);
  const auto second = client_->Generate(request);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_NE(first->accepted.request_id(), second->accepted.request_id());
  EXPECT_NE(first->accepted.seed(), second->accepted.seed());
  EXPECT_NE(first->accepted.resume_handle(), second->accepted.resume_handle());
  EXPECT_EQ(first->branches[0].ids, Truth(first->accepted.seed(), 0, 1));
}

TEST_F(GatewayTest, AWorkerThatDiesMidStreamIsReplacedWithoutTheClientSeeingIt) {
  a_.FallSilentAfter(5);
  StartGateway();
  Reading reading(*client_, Request(12));
  reading.WaitForTokens(5);
  a_.Break();
  ASSERT_TRUE(reading.Wait().ok());
  EXPECT_TRUE(reading.broken().ok()) << reading.broken();
  EXPECT_EQ(reading.completion().finished.code(), 0);
  EXPECT_EQ(reading.completion().finished.usage().attempts(), 2);
  EXPECT_EQ(reading.completion().branches[0].ids, Truth(5, 0, 12));
  const v1::Submit submit = b_.WaitForSubmit(1);
  ASSERT_THAT(submit.branches(), SizeIs(1));
  EXPECT_EQ(std::vector<int32_t>(submit.branches(0).emitted().begin(),
                                 submit.branches(0).emitted().end()),
            Truth(5, 0, 5));
  ASSERT_EQ(submit.branches(0).logprobs_size(), 5);
  EXPECT_EQ(submit.branches(0).logprobs(0), -0.5F);
  const auto places = coordinator_.places();
  ASSERT_THAT(places, SizeIs(2));
  EXPECT_EQ(places[1].previous().n(), 1u);
  ASSERT_THAT(places[1].avoid(), SizeIs(1));
  EXPECT_EQ(places[1].avoid(0).incarnation(), 101u);
  EXPECT_EQ(places[1].emitted_tokens(), 5);
  EXPECT_EQ(places[1].crashes(), 1u);
}

TEST_F(GatewayTest, AFrozenWorkerIsReplacedOnTheCoordinatorsWord) {
  a_.FallSilentAfter(3);
  StartGateway();
  Reading reading(*client_, Request(8));
  reading.WaitForTokens(3);
  coordinator_.AddVerdict(a_.ref(), "silent");
  ASSERT_TRUE(reading.Wait().ok());
  EXPECT_EQ(reading.completion().branches[0].ids, Truth(5, 0, 8));
  EXPECT_EQ(reading.completion().finished.usage().attempts(), 2);
  EXPECT_EQ(coordinator_.places()[1].crashes(), 0u) << "nobody crashed";
}

TEST_F(GatewayTest, AWorkerThatRefusesTheFirstAttemptIsReplaced) {
  a_.RefuseWith(static_cast<int>(absl::StatusCode::kUnavailable), "stopping");
  StartGateway();
  const auto result = client_->Generate(Request(4));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->finished.usage().attempts(), 2);
}

TEST_F(GatewayTest, CancelNeedsTheHandleAndEndsTheRequestOnce) {
  a_.FallSilentAfter(2);
  StartGateway();
  Reading reading(*client_, Request(8));
  reading.WaitForTokens(2);
  const v1::Accepted accepted = reading.WaitAccepted();

  v1::Accepted stranger = accepted;
  stranger.set_resume_handle(std::string(16, 'x'));
  EXPECT_EQ(client_->Cancel(stranger).code(), absl::StatusCode::kNotFound);
  stranger.clear_resume_handle();
  EXPECT_EQ(client_->Cancel(stranger).code(), absl::StatusCode::kNotFound);
  stranger = accepted;
  stranger.set_request_id("never-seen");
  EXPECT_EQ(client_->Cancel(stranger).code(), absl::StatusCode::kNotFound);

  EXPECT_TRUE(client_->Cancel(accepted).ok());
  ASSERT_TRUE(reading.Wait().ok());
  EXPECT_TRUE(reading.broken().ok()) << reading.broken();
  EXPECT_EQ(reading.completion().finished.code(), static_cast<int>(absl::StatusCode::kCancelled));
  EXPECT_EQ(reading.completion().branches[0].reason, v1::FINISH_REASON_CANCELLED);
  EXPECT_EQ(a_.WaitForCancel(1).request_id(), accepted.request_id());
  EXPECT_TRUE(client_->Cancel(accepted).ok()) << "ended already is fine";
}

TEST_F(GatewayTest, AClientThatLeavesWithoutAWindowEndsItsRequest) {
  a_.FallSilentAfter(2);
  StartGateway();
  v1::GenerateRequest request = Request(8);
  request.set_resume_window_ms(0);
  Reading reading(*client_, request);
  reading.WaitForTokens(2);
  reading.Abandon();
  EXPECT_EQ(reading.Wait().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(a_.WaitForCancel(1).deadline());
  const v1::Submit submit = a_.WaitForSubmit(1);
  EXPECT_THAT(submit.resume_handle(), IsEmpty());
  EXPECT_EQ(submit.resume_window_ms(), 0);
}

TEST_F(GatewayTest, TheDeadlineEndsTheRequestAtGatewayAndWorker) {
  a_.FallSilentAfter(2);
  StartGateway();
  v1::GenerateRequest request = Request(8);
  request.set_deadline_ms(300);
  Reading reading(*client_, request);
  ASSERT_TRUE(reading.Wait().ok());
  EXPECT_EQ(reading.completion().finished.code(),
            static_cast<int>(absl::StatusCode::kDeadlineExceeded));
  EXPECT_EQ(reading.completion().branches[0].reason, v1::FINISH_REASON_DEADLINE);
  EXPECT_TRUE(a_.WaitForCancel(1).deadline());
}

// Opens a stream and reads nothing until told.
struct SlowReader {
  SlowReader(const std::string& address, const v1::GenerateRequest& request)
      : stub(v1::Generation::NewStub(
            grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), FixedWindow()))),
        reader(stub->Generate(&context, request)) {}
  // Without probing, HTTP/2 lets 64 KiB of a stream through unread.
  static grpc::ChannelArguments FixedWindow() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    return arguments;
  }
  grpc::ClientContext context;
  std::unique_ptr<v1::Generation::Stub> stub;
  std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>> reader;
};

TEST_F(GatewayTest, ASlowReaderIsBoundedThenEndedWithWhatItHasYetToRead) {
  options_.stream_buffer_bytes_max = 32 << 10;
  a_.SetTokensPerMessage(50);
  StartGateway();
  v1::GenerateRequest request = Request(100'000);
  request.mutable_sampling()->set_top_logprobs(4);
  request.set_resume_window_ms(0);
  SlowReader slow(address_, request);
  a_.WaitForCancel(1);
  Completion completion;
  v1::GenerateEvent event;
  while (slow.reader->Read(&event)) {
    const Status added = completion.Add(event);
    ASSERT_TRUE(added.ok()) << added;
  }
  EXPECT_TRUE(slow.reader->Finish().ok());
  EXPECT_EQ(completion.finished.code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(completion.finished.message(), HasSubstr("the limit is 32768"));
  EXPECT_LT(completion.branches[0].ids.size(), 100'000u);
  EXPECT_EQ(completion.branches[0].ids,
            Truth(5, 0, static_cast<int32_t>(completion.branches[0].ids.size())));
}

TEST_F(GatewayTest, AReaderThatNeverReadsIsCutOffAndItsPlaceIsFreed) {
  options_.stream_buffer_bytes_max = 1 << 20;  // far more than the client's window takes at the end
  options_.slow_reader_grace_ms = 200;         // long enough for the others to be read
  options_.streams_max = 1;
  a_.SetTokensPerMessage(50);
  StartGateway();
  v1::GenerateRequest request = Request(100'000);
  request.mutable_sampling()->set_top_logprobs(4);
  request.set_resume_window_ms(0);
  SlowReader slow(address_, request);
  a_.WaitForCancel(1);
  while (true) {
    const auto next = client_->Generate(Request(2));
    if (next.ok()) break;
    ASSERT_EQ(next.status().code(), absl::StatusCode::kResourceExhausted) << next.status();
  }
  v1::GenerateEvent event;
  while (slow.reader->Read(&event)) {
  }
  EXPECT_EQ(slow.reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(GatewayTest, OneStreamTooManyIsRefusedWithAHintAndHurtsNobody) {
  options_.streams_max = 2;
  a_.FallSilentAfter(1);
  StartGateway();
  Reading first(*client_, Request(2));
  Reading second(*client_, Request(2));
  first.WaitForTokens(1);
  second.WaitForTokens(1);
  const auto third = client_->Generate(Request(2));
  EXPECT_EQ(third.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(third.status().message()), HasSubstr("2 streams, the limit is 2"));
  EXPECT_TRUE(RetryAfterMs(third.status()).has_value());
  a_.Break();
  EXPECT_TRUE(first.Wait().ok());
  EXPECT_EQ(first.completion().finished.code(), 0);
}

TEST_F(GatewayTest, TheCoordinatorsRefusalReachesTheClientByName) {
  StartGateway();
  coordinator_.RefuseWith(
      ToGrpc(WithRetryAfter(absl::ResourceExhaustedError("NO_ROOM: 64 of 64 wait"), 700)));
  const auto result = client_->Generate(Request(2));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(result.status().message(), "NO_ROOM: 64 of 64 wait");
  EXPECT_EQ(RetryAfterMs(result.status()), 700);
}

TEST_F(GatewayTest, WithoutACoordinatorStreamsGoOnAndNewOnesAreRefused) {
  a_.FallSilentAfter(3);
  StartGateway();
  Reading running(*client_, Request(6));
  running.WaitForTokens(3);
  coordinator_.Kill();
  const auto refused = client_->Generate(Request(2));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("coordinator unreachable"));
  EXPECT_TRUE(RetryAfterMs(refused.status()).has_value());
  const v1::Accepted accepted = running.WaitAccepted();
  EXPECT_TRUE(client_->Cancel(accepted).ok()) << "the running one is served as ever";
  EXPECT_TRUE(running.Wait().ok());
}

TEST_F(GatewayTest, AFreshCoordinatorIsToldOfRunningRequests) {
  a_.FallSilentAfter(1);
  StartGateway();
  v1::GenerateRequest request = Request(2);
  request.set_request_id("told");
  Reading running(*client_, request);
  running.WaitForTokens(1);
  coordinator_.SetIncarnation(2);
  const v1::RequestReport report = coordinator_.WaitForReportOf("told");
  EXPECT_EQ(report.attempt().n(), 1u);
  EXPECT_EQ(report.handle_digest().size(), 32u);
}

TEST_F(GatewayTest, ARunningIdIsNotTakenTwice) {
  a_.FallSilentAfter(1);
  StartGateway();
  v1::GenerateRequest request = Request(2);
  request.set_request_id("twin");
  Reading running(*client_, request);
  running.WaitForTokens(1);
  EXPECT_EQ(client_->Generate(request).status().code(), absl::StatusCode::kAlreadyExists);
  a_.Break();
  EXPECT_TRUE(running.Wait().ok());
  EXPECT_EQ(running.completion().finished.code(), 0) << "the first was not disturbed";
}

TEST_F(GatewayTest, AnInvalidRequestIsRefusedBeforeAnythingIsPlaced) {
  StartGateway();
  v1::GenerateRequest request = Request(2);
  request.mutable_sampling()->set_top_p(3);
  const auto result = client_->Generate(request);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("top_p is 3"));
  EXPECT_THAT(coordinator_.places(), IsEmpty());
}

TEST_F(GatewayTest, WithoutATokenizerTextIsRefusedByName) {
  StartGateway();
  v1::GenerateRequest request = Request(2);
  request.set_text("hello");
  for (const Status& status :
       {client_->Generate(request).status(), client_->Tokenize("hello").status(),
        client_->Detokenize({1}).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("no tokenizer"));
  }
}

TEST_F(GatewayTest, ListsTheModelAndIsHealthy) {
  StartGateway();
  const auto models = client_->ListModels();
  ASSERT_TRUE(models.ok()) << models.status();
  ASSERT_THAT(*models, SizeIs(1));
  EXPECT_EQ((*models)[0].name(), "fake");
  EXPECT_EQ((*models)[0].vocab_size(), kFakeVocab);
  EXPECT_EQ((*models)[0].block_tokens(), 4);
  EXPECT_EQ((*models)[0].fingerprint(), std::string(64, '1'));
}

TEST_F(GatewayTest, StoppingEndsEveryStreamWithItsTerminalEvent) {
  a_.FallSilentAfter(1);
  StartGateway();
  v1::GenerateRequest request = Request(2);
  request.set_resume_window_ms(0);
  Reading running(*client_, request);
  running.WaitForTokens(1);
  StopGateway();
  EXPECT_TRUE(running.Wait().ok());
  EXPECT_TRUE(running.broken().ok()) << running.broken();
  EXPECT_EQ(running.completion().finished.code(), static_cast<int>(absl::StatusCode::kUnavailable));
}

TEST_F(GatewayTest, TextDeltasAreTheDetokenizersOwn) {
  options_.model_dir = SharedDataOrSkip("stories260k/hf");
  if (options_.model_dir.empty()) {
    StartGateway();  // TearDown stops it
    GTEST_SKIP() << SharedDataMissing();
  }
  StartGateway();
  v1::GenerateRequest request = Request(40);
  request.set_text("Once upon a time");
  const auto result = client_->Generate(request);
  ASSERT_TRUE(result.ok()) << result.status();
  const auto tokenizer = Tokenizer::Load(options_.model_dir);
  ASSERT_TRUE(tokenizer.ok());
  Detokenizer detokenizer(**tokenizer, {.skip_special = true, .at_text_start = false});
  std::string text;
  for (const int32_t id : result->branches[0].ids) text += detokenizer.Push(id);
  text += detokenizer.Flush();
  EXPECT_EQ(result->branches[0].text, text);
  EXPECT_FALSE(text.empty());

  const auto ids = client_->Tokenize("Once upon a time");
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(result->accepted.prompt_tokens(), static_cast<int32_t>(ids->size()));
  const auto back = client_->Detokenize(*ids);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(*back, "Once upon a time");
  EXPECT_EQ(client_->Detokenize({-1}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(GatewayTest, ManyStreamsSurviveTheLossOfTheirWorkerTogether) {
  a_.FallSilentAfter(20);
  StartGateway();
  constexpr uint64_t kStreams = 200;
  std::vector<std::unique_ptr<Reading>> readings;
  readings.reserve(kStreams);
  for (uint64_t i = 0; i < kStreams; ++i) {
    readings.push_back(std::make_unique<Reading>(*client_, Request(50, 1000 + i)));
  }
  for (auto& reading : readings) reading->WaitForTokens(20);
  a_.Break();
  for (uint64_t i = 0; i < kStreams; ++i) {
    Reading& reading = *readings[i];
    ASSERT_TRUE(reading.Wait().ok());
    ASSERT_TRUE(reading.broken().ok()) << reading.broken();
    ASSERT_EQ(reading.completion().finished.code(), 0) << reading.completion().finished.message();
    ASSERT_EQ(reading.completion().branches[0].ids, Truth(1000 + i, 0, 50));
  }
}

}  // namespace
}  // namespace reprise::gateway
