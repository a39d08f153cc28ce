// Who may begin what: pairs the calls of all ranks and puts them into one order. NCCL runs a
// communicator's operations one after the other, so ranks that began theirs in different orders
// would wait for each other for ever; and it does not see that two sides disagree. Rank 0's link
// owns it and tells the others (nccl_link.h). No threads, no input or output.
//
// Invariants:
// 1. Nothing may begin before all its ranks have posted it, with equal tags and sizes.
// 2. What Add returns over time, restricted to any rank, is a part of one order of all. So the
//    first thing in it that has not ended is the first at all its ranks, and ends.
// 3. The messages of a pair are paired in the order of their posts, collective ones included.
#ifndef REPRISE_WORKER_PARALLEL_NCCL_CALL_ORDER_H_
#define REPRISE_WORKER_PARALLEL_NCCL_CALL_ORDER_H_

#include <cstdint>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "common/status.h"
#include "worker/parallel/nccl/call_post.h"

namespace reprise::parallel {

class CallOrder {
 public:
  explicit CallOrder(int size) : size_(size), left_(Index(size)), numbers_(Index(size)) {}

  struct Begin {
    int rank = 0;
    uint64_t number = 0;
    bool operator==(const Begin&) const = default;
  };
  // What may begin now that the rank has posted this. INVALID_ARGUMENT naming both ranks that
  // disagree; UNAVAILABLE when somebody needs a rank that said kBye. Both end the group.
  StatusOr<std::vector<Begin>> Add(int rank, const CallPost& post);

 private:
  struct Message {
    CallTag tag;
    uint64_t bytes = 0;
    uint64_t number = 0;
  };
  // From one rank to another; at most one of the two is not empty.
  struct Pair {
    std::deque<Message> sent;
    std::deque<Message> awaited;
  };

  static size_t Index(int rank) { return static_cast<size_t>(rank); }
  Status Match(int from, int to, std::vector<Begin>& begin);
  Status AddCollective(int rank, const CallPost& post, std::vector<Begin>& begin);
  Status CheckLeft(int from, int to) const;

  const int size_;
  std::map<std::pair<int, int>, Pair> pairs_;
  std::vector<bool> left_;         // by rank
  std::vector<uint64_t> numbers_;  // by rank, of its collective call
  size_t posted_ = 0;              // ranks in the collective call
  size_t matched_ = 0;             // its messages
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_NCCL_CALL_ORDER_H_
