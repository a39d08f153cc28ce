#include "common/grpc_status.h"

#include <gtest/gtest.h>

#include <string>

namespace reprise {
namespace {

TEST(GrpcStatus, GoesThereAndBackForEveryCode) {
  for (int code = 0; code <= 16; ++code) {
    const Status status(static_cast<absl::StatusCode>(code), code == 0 ? "" : "why");
    EXPECT_EQ(static_cast<int>(ToGrpc(status).error_code()), code);
    EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  }
}

TEST(GrpcStatus, MapsForeignCodesToUnknown) {
  const Status status = FromGrpc(grpc::Status(static_cast<grpc::StatusCode>(20), "odd"));
  EXPECT_TRUE(absl::IsUnknown(status));
  EXPECT_EQ(status.message(), "odd");
}

TEST(RetryAfter, SurvivesTheWire) {
  for (const int64_t ms : {int64_t{0}, int64_t{1}, int64_t{999}, int64_t{61'234}}) {
    const Status status = WithRetryAfter(absl::ResourceExhaustedError("queue full"), ms);
    EXPECT_EQ(RetryAfterMs(status), ms);
    EXPECT_EQ(RetryAfterMs(FromGrpc(ToGrpc(status))), ms);
    EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  }
}

TEST(RetryAfter, IsAbsentUnlessGivenAndBounded) {
  EXPECT_EQ(RetryAfterMs(absl::ResourceExhaustedError("x")), std::nullopt);
  EXPECT_TRUE(WithRetryAfter(absl::OkStatus(), 5).ok());
  EXPECT_EQ(RetryAfterMs(WithRetryAfter(absl::UnavailableError("x"), -5)), 0);
  EXPECT_EQ(RetryAfterMs(WithRetryAfter(absl::UnavailableError("x"), INT64_MAX)), 86'400'000);
  EXPECT_TRUE(ToGrpc(absl::UnavailableError("x")).error_details().empty());
}

// google.rpc.Status{code: 8, message: "m", details: [Any{RetryInfo{retry_delay: 2.5 s}}]}, encoded
// by hand from the public definitions.
TEST(RetryAfter, IsTheStandardEncoding) {
  const std::string duration = std::string("\x08\x02\x10\x80\xca\xb5\xee\x01", 8);
  const std::string info = "\x0a" + std::string(1, static_cast<char>(duration.size())) + duration;
  const std::string url = "type.googleapis.com/google.rpc.RetryInfo";
  const std::string any = "\x0a" + std::string(1, static_cast<char>(url.size())) + url + "\x12" +
                          std::string(1, static_cast<char>(info.size())) + info;
  const std::string details =
      "\x08\x08\x12\x01m\x1a" + std::string(1, static_cast<char>(any.size())) + any;
  const Status status = WithRetryAfter(absl::ResourceExhaustedError("m"), 2500);
  EXPECT_EQ(ToGrpc(status).error_details(), details);
  EXPECT_EQ(RetryAfterMs(FromGrpc(grpc::Status(grpc::RESOURCE_EXHAUSTED, "m", details))), 2500);
  for (size_t n = 0; n < details.size(); ++n) {
    const Status cut = FromGrpc(grpc::Status(grpc::RESOURCE_EXHAUSTED, "m", details.substr(0, n)));
    EXPECT_TRUE(absl::IsResourceExhausted(cut));
    EXPECT_EQ(RetryAfterMs(cut), std::nullopt) << n;
  }
}

// protobuf would print its complaint among our JSON lines.
TEST(RetryAfter, AHostilePeerCannotWriteToTheLog) {
  testing::internal::CaptureStderr();
  const std::string details = "\x1a\x03\x0a\x01\xff";
  EXPECT_EQ(RetryAfterMs(FromGrpc(grpc::Status(grpc::RESOURCE_EXHAUSTED, "m", details))),
            std::nullopt);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(HttpCode, FollowsTheMeaning) {
  EXPECT_EQ(HttpCode(absl::OkStatus()), 200);
  EXPECT_EQ(HttpCode(absl::InvalidArgumentError("")), 400);
  EXPECT_EQ(HttpCode(absl::NotFoundError("")), 404);
  EXPECT_EQ(HttpCode(absl::ResourceExhaustedError("")), 429);
  EXPECT_EQ(HttpCode(absl::UnavailableError("")), 503);
  EXPECT_EQ(HttpCode(absl::DeadlineExceededError("")), 504);
  EXPECT_EQ(HttpCode(absl::InternalError("")), 500);
}

}  // namespace
}  // namespace reprise
