// What one client has not read yet, in order: tokens that are ready together travel in one message.
// Owned by its request, used under that request's lock.
//
// Invariants:
// 1. Events are taken in the order they were added; tokens join the last event only when that one
//    carries tokens and has not been taken.
// 2. bytes() is about the encoded size of what has not been taken.
#ifndef REPRISE_GATEWAY_SERVER_STREAM_BUFFER_H_
#define REPRISE_GATEWAY_SERVER_STREAM_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>

#include "reprise/v1/generation.pb.h"

namespace reprise::gateway {

class StreamBuffer {
 public:
  // An empty token to be filled in by the caller before the next call, but for its text.
  v1::Token* AddToken(std::string text, int64_t watermark, size_t top_entries);
  // An empty event for anything but tokens.
  v1::GenerateEvent* AddEvent();
  // Moves the oldest event into `event`, whose memory is kept for later use. False when empty.
  bool Take(v1::GenerateEvent* event);

  size_t bytes() const { return bytes_; }
  bool empty() const { return pending_.empty(); }

 private:
  struct Pending {
    v1::GenerateEvent event;
    size_t bytes = 0;
  };
  Pending& Push();

  std::deque<Pending> pending_;
  v1::GenerateEvent spare_;  // cleared, with its memory
  size_t bytes_ = 0;
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_STREAM_BUFFER_H_
