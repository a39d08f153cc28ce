#include "tests/cluster/stream_check.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace reprise::harness {
namespace {

bool SameBits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

}  // namespace

StreamCheck::StreamCheck(int64_t number, Transcript expected, TimeNs now)
    : expected_(std::move(expected)), next_(expected_.size(), 0), last_ns_(now) {
  for (const auto& branch : expected_) seen_.emplace_back(branch.size(), false);
  result_.number = number;
  result_.start_ns = now;
}

void StreamCheck::Add(const v1::Token& token) {
  const auto branch = static_cast<size_t>(token.branch());
  if (branch >= expected_.size() ||
      static_cast<size_t>(token.index()) >= expected_[branch].size()) {
    ++result_.different;
    return;
  }
  const auto index = static_cast<size_t>(token.index());
  if (seen_[branch][index]) {
    ++result_.duplicated;
    return;
  }
  seen_[branch][index] = true;
  ++result_.received;
  const TranscriptToken& want = expected_[branch][index];
  const bool in_order = token.index() == next_[branch];
  next_[branch] = std::max<int64_t>(next_[branch], token.index() + 1);
  result_.different +=
      !in_order || token.id() != want.id || !SameBits(token.logprob(), want.logprob);
}

void StreamCheck::OnEvent(const v1::GenerateEvent& event, TimeNs now) {
  if (event.has_finished()) {
    finished_ = true;
    const v1::Finished& end = event.finished();
    if (end.code() != 0) {
      result_.status = Status(static_cast<absl::StatusCode>(end.code()), end.message());
    }
    result_.attempts = end.usage().attempts();
  }
  if (!event.has_tokens()) return;
  for (const v1::Token& token : event.tokens().tokens()) Add(token);
  if (now - last_ns_ > result_.longest_gap_ns) {
    result_.longest_gap_ns = now - last_ns_;
    result_.gap_from_ns = last_ns_;
  }
  if (result_.first_ns == 0) result_.first_ns = now;
  last_ns_ = now;
}

StreamResult StreamCheck::Finish(const Status& status, TimeNs now) {
  if (!status.ok()) result_.status = status;
  if (result_.status.ok() && !finished_) {
    result_.status = absl::InternalError("the stream ended without Finished");
  }
  for (const auto& branch : seen_) {
    result_.lost += std::count(branch.begin(), branch.end(), false);
  }
  result_.end_ns = now;
  return result_;
}

}  // namespace reprise::harness
