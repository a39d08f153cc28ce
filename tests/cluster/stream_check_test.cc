// Each way a stream can be wrong is counted as what it is.
#include "tests/cluster/stream_check.h"

#include <gtest/gtest.h>

namespace reprise::harness {
namespace {

v1::GenerateEvent AcceptedEvent() {
  v1::GenerateEvent event;
  event.mutable_accepted()->set_request_id("r");
  return event;
}

v1::GenerateEvent TokenEvent(int32_t index, int32_t id, float logprob = -1, int32_t branch = 0) {
  v1::GenerateEvent event;
  v1::Token& token = *event.mutable_tokens()->add_tokens();
  token.set_branch(branch);
  token.set_index(index);
  token.set_id(id);
  token.set_logprob(logprob);
  return event;
}

v1::GenerateEvent FinishedEvent(int32_t attempts, int32_t code = 0) {
  v1::GenerateEvent event;
  event.mutable_finished()->mutable_usage()->set_attempts(attempts);
  event.mutable_finished()->set_code(code);
  return event;
}

StreamCheck Check() { return {7, {{{10, -1}, {11, -1}, {12, -1}}}, 100}; }

TEST(StreamCheck, AnExactStream) {
  StreamCheck check = Check();
  check.OnEvent(AcceptedEvent(), 110);
  check.OnEvent(TokenEvent(0, 10), 120);
  check.OnEvent(TokenEvent(1, 11), 180);
  check.OnEvent(TokenEvent(2, 12), 190);
  check.OnEvent(FinishedEvent(1), 195);
  const StreamResult result = check.Finish(absl::OkStatus(), 200);
  EXPECT_TRUE(result.exact());
  EXPECT_FALSE(result.hit());
  EXPECT_EQ(result.received, 3);
  EXPECT_EQ(result.first_ns, 120);
  EXPECT_EQ(result.longest_gap_ns, 60);
  EXPECT_EQ(result.gap_from_ns, 120);
}

TEST(StreamCheck, CountsLostDuplicatedAndDifferent) {
  StreamCheck check = Check();
  check.OnEvent(AcceptedEvent(), 110);
  check.OnEvent(TokenEvent(0, 99), 120);
  check.OnEvent(TokenEvent(0, 10), 120);
  check.OnEvent(TokenEvent(2, 12), 120);         // out of order
  check.OnEvent(TokenEvent(3, 1), 120);          // never asked for
  check.OnEvent(TokenEvent(0, 10, -1, 1), 120);  // nor that branch
  check.OnEvent(FinishedEvent(1), 120);
  const StreamResult result = check.Finish(absl::OkStatus(), 200);
  EXPECT_FALSE(result.exact());
  EXPECT_EQ(result.lost, 1);
  EXPECT_EQ(result.duplicated, 1);
  EXPECT_EQ(result.different, 4);
}

TEST(StreamCheck, OtherLogprobBitsAreDifferent) {
  StreamCheck check = Check();
  check.OnEvent(TokenEvent(0, 10, -1.0000001f), 120);
  EXPECT_EQ(check.Finish(absl::OkStatus(), 200).different, 1);
}

TEST(StreamCheck, PlacedAgainOrResumedIsHit) {
  StreamCheck placed = Check();
  placed.OnEvent(AcceptedEvent(), 110);
  placed.OnEvent(FinishedEvent(2), 120);
  EXPECT_TRUE(placed.Finish(absl::OkStatus(), 200).hit());
  StreamCheck resumed = Check();
  resumed.OnEvent(AcceptedEvent(), 110);
  resumed.OnResume();
  resumed.OnEvent(FinishedEvent(1), 120);
  const StreamResult result = resumed.Finish(absl::OkStatus(), 200);
  EXPECT_TRUE(result.hit());
  EXPECT_EQ(result.resumes, 1);
}

TEST(StreamCheck, FailuresAndMissingEndsAreErrors) {
  StreamCheck failed = Check();
  failed.OnEvent(FinishedEvent(1, static_cast<int>(absl::StatusCode::kUnavailable)), 120);
  EXPECT_EQ(failed.Finish(absl::OkStatus(), 200).status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Check().Finish(absl::OkStatus(), 200).status.code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace reprise::harness
