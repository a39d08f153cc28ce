// What a rank says before it does something with others, and its bytes on the control link. Values;
// any thread.
//
// Invariants:
// 1. Decoding accepts exactly what encoding produces: EncodePost(*DecodePost(bytes)) == bytes.
// 2. Posts of groups of one size have one length.
#ifndef REPRISE_WORKER_PARALLEL_NCCL_CALL_POST_H_
#define REPRISE_WORKER_PARALLEL_NCCL_CALL_POST_H_

#include <cstdint>
#include <span>
#include <vector>

#include "common/status.h"
#include "worker/parallel/peer_link.h"

namespace reprise::parallel {

enum class PostKind : uint8_t { kCollective, kSend, kReceive, kBye };

struct CallPost {
  uint64_t number = 0;  // the rank's own, to be told when it may begin
  PostKind kind = PostKind::kCollective;
  CallTag tag;                     // kPointToPoint unless collective
  int peer = 0;                    // of a send or a receive
  uint64_t bytes = 0;              // ditto
  std::vector<uint64_t> sends;     // [size], bytes to each rank, of a collective
  std::vector<uint64_t> receives;  // ditto, from each
  bool operator==(const CallPost&) const = default;
};

size_t PostBytes(int size);
// Lists that are empty are written as zeros.
std::vector<uint8_t> EncodePost(const CallPost& post, int size);
// INVALID_ARGUMENT naming what is out of range.
StatusOr<CallPost> DecodePost(std::span<const uint8_t> bytes, int size);

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_NCCL_CALL_POST_H_
