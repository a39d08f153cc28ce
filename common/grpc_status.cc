#include "common/grpc_status.h"

#include <google/protobuf/any.pb.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/unknown_field_set.h>

#include <string>

#include "absl/strings/numbers.h"

namespace reprise {
namespace {

constexpr absl::string_view kRetryAfterUrl = "reprise-retry-after-ms";
constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";
// A hint beyond a day is no hint, and keeps the arithmetic far from its limits.
constexpr int64_t kRetryAfterMsMax = 24 * 3600 * int64_t{1000};

// Field numbers of google.rpc.Status and google.rpc.RetryInfo, whose files Debian does not package.
constexpr int kStatusCode = 1;
constexpr int kStatusMessage = 2;
constexpr int kStatusDetails = 3;
constexpr int kRetryInfoDelay = 1;

std::string EncodeDetails(const Status& status, int64_t retry_after_ms) {
  google::protobuf::Duration delay;
  delay.set_seconds(retry_after_ms / 1000);
  delay.set_nanos(static_cast<int32_t>(retry_after_ms % 1000) * 1'000'000);
  google::protobuf::UnknownFieldSet retry_info;
  retry_info.AddLengthDelimited(kRetryInfoDelay, delay.SerializeAsString());
  google::protobuf::Any detail;
  detail.set_type_url(kRetryInfoUrl);
  retry_info.SerializeToString(detail.mutable_value());

  google::protobuf::UnknownFieldSet message;
  message.AddVarint(kStatusCode, static_cast<uint64_t>(status.code()));
  message.AddLengthDelimited(kStatusMessage, std::string(status.message()));
  message.AddLengthDelimited(kStatusDetails, detail.SerializeAsString());
  std::string bytes;
  message.SerializeToString(&bytes);
  return bytes;
}

using google::protobuf::UnknownField;
using google::protobuf::UnknownFieldSet;

// The first length-delimited field `number`, or null.
const std::string* FindBytes(const UnknownFieldSet& message, int number) {
  for (int i = 0; i < message.field_count(); ++i) {
    const UnknownField& field = message.field(i);
    if (field.number() == number && field.type() == UnknownField::TYPE_LENGTH_DELIMITED) {
      return &field.length_delimited();
    }
  }
  return nullptr;
}

std::optional<int64_t> DecodeRetryInfo(const std::string& bytes) {
  UnknownFieldSet retry_info;
  if (!retry_info.ParseFromString(bytes)) return std::nullopt;
  const std::string* encoded = FindBytes(retry_info, kRetryInfoDelay);
  google::protobuf::Duration delay;
  if (encoded == nullptr || !delay.ParseFromString(*encoded)) return std::nullopt;
  if (delay.seconds() < 0 || delay.nanos() < 0 || delay.nanos() >= 1'000'000'000 ||
      delay.seconds() > kRetryAfterMsMax / 1000) {
    return std::nullopt;
  }
  return delay.seconds() * 1000 + delay.nanos() / 1'000'000;
}

// An Any is taken apart as raw fields too: protobuf's own parser would print a line of its own to
// standard error for every type URL that is not UTF-8, at a peer's will.
std::optional<int64_t> DecodeDetails(const std::string& bytes) {
  UnknownFieldSet message;
  if (bytes.empty() || !message.ParseFromString(bytes)) return std::nullopt;
  for (int i = 0; i < message.field_count(); ++i) {
    const UnknownField& field = message.field(i);
    if (field.number() != kStatusDetails || field.type() != UnknownField::TYPE_LENGTH_DELIMITED) {
      continue;
    }
    UnknownFieldSet detail;
    if (!detail.ParseFromString(field.length_delimited())) return std::nullopt;
    const std::string* url = FindBytes(detail, google::protobuf::Any::kTypeUrlFieldNumber);
    const std::string* value = FindBytes(detail, google::protobuf::Any::kValueFieldNumber);
    if (url != nullptr && value != nullptr && *url == kRetryInfoUrl) return DecodeRetryInfo(*value);
  }
  return std::nullopt;
}

}  // namespace

Status WithRetryAfter(Status status, int64_t ms) {
  if (status.ok()) return status;
  const int64_t bounded_ms = ms < 0 ? 0 : ms > kRetryAfterMsMax ? kRetryAfterMsMax : ms;
  status.SetPayload(kRetryAfterUrl, absl::Cord(absl::StrCat(bounded_ms)));
  return status;
}

std::optional<int64_t> RetryAfterMs(const Status& status) {
  const auto payload = status.GetPayload(kRetryAfterUrl);
  int64_t ms = 0;
  if (!payload || !absl::SimpleAtoi(std::string(*payload), &ms)) return std::nullopt;
  return ms;
}

grpc::Status ToGrpc(const Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.raw_code());
  const std::string message(status.message());
  const std::optional<int64_t> retry_after_ms = RetryAfterMs(status);
  if (!retry_after_ms) return grpc::Status(code, message);
  return grpc::Status(code, message, EncodeDetails(status, *retry_after_ms));
}

Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const int code = static_cast<int>(status.error_code());
  const bool known = code > 0 && code <= static_cast<int>(absl::StatusCode::kUnauthenticated);
  Status result(known ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown,
                status.error_message());
  if (const auto ms = DecodeDetails(status.error_details())) return WithRetryAfter(result, *ms);
  return result;
}

int HttpCode(const Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

}  // namespace reprise
