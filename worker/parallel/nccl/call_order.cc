#include "worker/parallel/nccl/call_order.h"

namespace reprise::parallel {

StatusOr<std::vector<CallOrder::Begin>> CallOrder::Add(int rank, const CallPost& post) {
  std::vector<Begin> begin;
  if (post.kind == PostKind::kBye) {
    left_[Index(rank)] = true;
    for (int peer = 0; peer < size_; ++peer) {
      RETURN_IF_ERROR(CheckLeft(rank, peer));
      RETURN_IF_ERROR(CheckLeft(peer, rank));
    }
  } else if (post.kind == PostKind::kCollective) {
    RETURN_IF_ERROR(AddCollective(rank, post, begin));
  } else if (post.peer == rank) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " posts to itself"));
  } else if (post.kind == PostKind::kSend) {
    pairs_[{rank, post.peer}].sent.push_back({post.tag, post.bytes, post.number});
    RETURN_IF_ERROR(Match(rank, post.peer, begin));
  } else {
    pairs_[{post.peer, rank}].awaited.push_back({post.tag, post.bytes, post.number});
    RETURN_IF_ERROR(Match(post.peer, rank, begin));
  }
  return begin;
}

Status CallOrder::AddCollective(int rank, const CallPost& post, std::vector<Begin>& begin) {
  numbers_[Index(rank)] = post.number;
  ++posted_;
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank) continue;
    pairs_[{rank, peer}].sent.push_back({post.tag, post.sends[Index(peer)], post.number});
    RETURN_IF_ERROR(Match(rank, peer, begin));
    pairs_[{peer, rank}].awaited.push_back({post.tag, post.receives[Index(peer)], post.number});
    RETURN_IF_ERROR(Match(peer, rank, begin));
  }
  // All pairs of the call, and a group of one rank has none.
  if (posted_ < Index(size_) || matched_ < Index(size_) * (Index(size_) - 1)) {
    return absl::OkStatus();
  }
  posted_ = matched_ = 0;
  for (int r = 0; r < size_; ++r) begin.push_back({r, numbers_[Index(r)]});
  return absl::OkStatus();
}

Status CallOrder::Match(int from, int to, std::vector<Begin>& begin) {
  Pair& pair = pairs_[{from, to}];
  while (!pair.sent.empty() && !pair.awaited.empty()) {
    const Message sent = pair.sent.front();
    const Message awaited = pair.awaited.front();
    if (sent.tag != awaited.tag || sent.bytes != awaited.bytes) {
      return Disagreement(from, sent.tag, sent.bytes, to, awaited.tag, awaited.bytes);
    }
    pair.sent.pop_front();
    pair.awaited.pop_front();
    if (sent.tag.op != Op::kPointToPoint) {
      ++matched_;
      continue;
    }
    begin.push_back({from, sent.number});
    begin.push_back({to, awaited.number});
  }
  return CheckLeft(from, to);
}

Status CallOrder::CheckLeft(int from, int to) const {
  const auto pair = pairs_.find({from, to});
  if (pair == pairs_.end()) return absl::OkStatus();
  if (left_[Index(from)] && !pair->second.awaited.empty()) {
    return absl::UnavailableError(absl::StrCat("rank ", from, " has left"));
  }
  if (left_[Index(to)] && !pair->second.sent.empty()) {
    return absl::UnavailableError(absl::StrCat("rank ", to, " has left"));
  }
  return absl::OkStatus();
}

}  // namespace reprise::parallel
