#include "gateway/server/stream_buffer.h"

#include <utility>

namespace reprise::gateway {
namespace {

// Encoded sizes, rounded up: tags, lengths and numbers of a token; one alternative; other events.
constexpr size_t kTokenBytes = 28;
constexpr size_t kTopBytes = 13;
constexpr size_t kEventBytes = 128;

}  // namespace

StreamBuffer::Pending& StreamBuffer::Push() {
  Pending& pending = pending_.emplace_back();
  pending.event.Swap(&spare_);
  return pending;
}

v1::Token* StreamBuffer::AddToken(std::string text, int64_t watermark, size_t top_entries) {
  const bool join = !pending_.empty() && pending_.back().event.has_tokens();
  Pending& pending = join ? pending_.back() : Push();
  v1::Tokens* tokens = pending.event.mutable_tokens();
  tokens->set_watermark(watermark);
  v1::Token* token = tokens->add_tokens();
  const size_t bytes = kTokenBytes + text.size() + top_entries * kTopBytes;
  pending.bytes += bytes;
  bytes_ += bytes;
  token->set_text(std::move(text));
  return token;
}

v1::GenerateEvent* StreamBuffer::AddEvent() {
  Pending& pending = Push();
  pending.event.Clear();
  pending.bytes = kEventBytes;
  bytes_ += kEventBytes;
  return &pending.event;
}

bool StreamBuffer::Take(v1::GenerateEvent* event) {
  if (pending_.empty()) return false;
  event->Swap(&pending_.front().event);
  bytes_ -= pending_.front().bytes;
  spare_.Swap(&pending_.front().event);
  // A oneof frees its message when cleared; keep the tokens' memory by clearing inside it.
  if (spare_.has_tokens()) {
    spare_.mutable_tokens()->Clear();
  } else {
    spare_.Clear();
  }
  pending_.pop_front();
  return true;
}

}  // namespace reprise::gateway
