// Moves messages between the ranks of a group: what a back end is to the collectives, which are
// written once (linked_communicator.h). Owned by the communicator; threads as there.
//
// Invariants:
// 1. Messages of a pair match in the order of their Start; tag and size must be equal on both
//    sides, else every rank fails with INVALID_ARGUMENT.
// 2. After an error no memory given to Start is written, and none of the caller's is read by this
//    process.
#ifndef REPRISE_WORKER_PARALLEL_PEER_LINK_H_
#define REPRISE_WORKER_PARALLEL_PEER_LINK_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "worker/parallel/communicator.h"

namespace reprise::parallel {

// What a message belongs to; both sides say the same.
struct CallTag {
  Op op = Op::kPointToPoint;
  uint32_t call = 0;        // number of the collective call, from 1; 0: point to point
  uint32_t step = 0;        // of the call
  uint64_t call_bytes = 0;  // what the call as a whole is about; 0 where ranks differ by right
  bool operator==(const CallTag&) const = default;
};
// "all_reduce of 40 bytes (call 3, step 0, 16 bytes here)"
std::string Describe(const CallTag& tag, uint64_t message_bytes);
Status Disagreement(int sender, const CallTag& sent, uint64_t sent_bytes, int receiver,
                    const CallTag& expected, uint64_t expected_bytes);

struct Outgoing {
  int to = 0;
  std::span<const uint8_t> data;
};
struct Incoming {
  int from = 0;
  std::span<uint8_t> data;
};
struct Batch {
  CallTag tag;
  std::vector<Outgoing> out;
  std::vector<Incoming> in;
};
using BatchId = uint64_t;
inline constexpr BatchId kNoBatch = 0;  // waits for nothing

class PeerLink {
 public:
  virtual ~PeerLink() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual Status status() const = 0;
  // The memory is the link's until Wait for it returns, or any Wait fails.
  virtual BatchId Start(Batch batch) = 0;
  // Whether Wait would return OK at once.
  virtual bool Done(BatchId batch) const = 0;
  // Returns an error only when the link is dead and quiet.
  virtual Status Wait(BatchId batch, TimeNs deadline_ns) = 0;
  // The first cause counts, at once for status(); tells every rank. Any thread; does not wait.
  virtual void Fail(const Status& cause) = 0;
};

// Where operands lie, for what a rank does to them itself. This one is for host memory; an error of
// a derived one ends the group. Owned by the communicator, called on its thread.
class LinkMemory {
 public:
  virtual ~LinkMemory() = default;
  virtual Status Copy(std::span<const uint8_t> from, std::span<uint8_t> to);
  // Room for n elements in the same kind of memory as `beside`, until the next call.
  virtual StatusOr<float*> Terms(size_t n, const float* beside);
  // terms[t] [n], all in one kind of memory: the tree's sum is in terms[0] (tree_sum.h).
  virtual Status Sum(std::span<float* const> terms, size_t n);

 private:
  std::vector<float> terms_;
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_PEER_LINK_H_
